"""The baseline: the uncompressed model with its file, accuracy and size, made once and stored."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch
from torch import nn

from autocompress import models
from autocompress.compression.artifact import metadata
from autocompress.contract import Deployable
from autocompress.data import Split, Splits
from autocompress.errors import TrialFailed, UserError
from autocompress.export import AGREEMENT_IMAGES, OPSET, TapCrop, check_agreement, cropped, export, tap_crop
from autocompress.files import atomic, digest
from autocompress.graph import facts
from autocompress.opened.keys import scored_with
from autocompress.quantization.counts import operator_counts
from autocompress.scoring import Scorer, images_between_pauses
from autocompress.store import Store
from autocompress.training import versions

log = logging.getLogger("autocompress.compression")


@dataclass(frozen=True)
class Baseline:
    """The uncompressed model, with which every candidate is compared.

    Attributes:
        accuracy: accuracy of the exported file on the validation split, in percent; NaN in a dry
            run.
        correct: the task's marks of each image, for paired intervals; empty in a dry run. For
            classes, bool ``(images,)``: whether each image is classified correctly.
        size_bytes: size of the ONNX file.
        params, macs: as for a candidate.
        deployable: the exported float file.
        weights_key: content key of weights, architecture and libraries; keys of stages contain it.
        key: content key of the weights, as above, and of the exporter.
    """

    accuracy: float
    correct: np.ndarray
    size_bytes: int
    params: int
    macs: int
    deployable: Deployable
    weights_key: str
    key: str


def weights_key(model: nn.Module) -> str:
    """Content key of a model's architecture and weights."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.state_dict().items())}
    about = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in state.items()]
    # As bytes: numpy has no bfloat16.
    contents = (tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in state.values())
    return digest(models.architecture(model), about, *contents)


def teacher_key(model: nn.Module) -> str:
    """Content key of a baseline: weights, architecture and libraries."""
    return digest(weights_key(model), versions())


def baseline_key(model: nn.Module) -> str:
    """Content key of a baseline and its file.

    It contains the exporter, because another exporter may write faster files.
    """
    return digest(teacher_key(model), OPSET, onnx.__version__, onnxscript.__version__)


def measure_baseline(
    model: nn.Module,
    splits: Splits,
    scorer: Scorer,
    store: Store,
    folder: Path,
    pause: Callable[[], None] | None = None,
) -> Baseline:
    """Exports ``model`` (float, eval) to ``folder/<key>.onnx`` and scores it on validation.

    Stored results of an earlier call are used. ``pause`` is called between images and may wait for
    a measurement on this machine.

    Raises:
        UserError: if it cannot be exported, its logits are not finite, or file and model do not
            agree, as for a candidate. Nothing is stored then.
    """
    exported = export_baseline(model, folder)
    scored = digest("baseline accuracy", exported.key, splits.val.digest, scored_with(scorer))
    found = store.get(scored) if store.has(scored) else None
    if found is None:
        try:
            correct = _scored(model, exported.deployable, splits.val, scorer, pause)
        except UserError:
            exported.deployable.file.unlink(missing_ok=True)
            raise
        store.put(scored, {"correct": torch.from_numpy(correct)}, {})
    else:
        correct = found[0]["correct"].numpy()
    accuracy = splits.val.task.metric(correct)
    if not math.isfinite(accuracy) and len(correct):
        title = splits.info.task.title
        raise UserError(
            f"the metric of the task '{title}' is {accuracy} for the baseline",
            "the data may lack what the metric counts",
        )
    return replace(exported, accuracy=accuracy, correct=correct)


def export_baseline(model: nn.Module, folder: Path) -> Baseline:
    """Exports ``model`` (float, eval) to ``folder/<key>.onnx``, without scoring it.

    A file that exists is not written again.

    Returns:
        The baseline with ``accuracy`` NaN and ``correct`` empty, for a dry run.

    Raises:
        UserError: if it cannot be exported.
    """
    key = baseline_key(model)
    file = folder / f"{key}.onnx"
    if not file.exists():
        with atomic(file) as temporary:
            _export(model, temporary)
    size = models.input_size(model)
    network = facts(model, size)
    return Baseline(
        accuracy=math.nan,
        correct=np.zeros(0, dtype=bool),
        size_bytes=file.stat().st_size,
        params=network.params,
        macs=network.macs,
        deployable=Deployable(file, size, operator_counts(model, size), lambda: model),
        weights_key=teacher_key(model),
        key=key,
    )


def cropped_baseline(model: nn.Module, base: Deployable, file: Path) -> tuple[Deployable, TapCrop] | None:
    """Writes the float baseline without the kernel taps that only read padding.

    It shows the effect of the tap crop alone.

    Args:
        model: the baseline.
        base: its own file.
        file: path of the file to write.

    Returns:
        None if no tap is left out.
    """
    crop = tap_crop(facts(model, base.input_size), model)
    if not crop.layers:
        return None
    deployed = cropped(model, crop)
    export(deployed, file, base.input_size, metadata(model))
    return Deployable(file, base.input_size, base.operators, lambda: deployed), crop


def _export(model: nn.Module, file: Path) -> None:
    try:
        export(model, file, models.input_size(model), metadata(model))
    except OSError:  # for example a full disk, which is not a fault of the model
        raise
    except Exception as error:  # torch.export and the exporter raise many types
        log.debug("the baseline cannot be exported", exc_info=True)
        # The exporter only says at which step it failed; the cause names the operator.
        cause = error.__cause__ if isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ else error
        told = re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).strip()  # torch colours its errors
        reason = (told or type(error).__name__).splitlines()[0][:300]
        raise UserError(
            f"the baseline cannot be written as an ONNX file: {reason}", "change model_args, or choose another model"
        ) from error


def _scored(
    model: nn.Module,
    deployable: Deployable,
    split: Split,
    scorer: Scorer,
    pause: Callable[[], None] | None,
) -> np.ndarray:
    """The marks of the file, after a check that file and model agree."""
    some = split.subset(AGREEMENT_IMAGES)
    images, _ = next(iter(some.loader(AGREEMENT_IMAGES)))
    hint = "its weights are damaged, or belong to another network"
    batch = images_between_pauses(deployable.input_size)
    if fault := check_agreement(deployable.file, model, images, batch_size=batch, pause=pause, task=split.task).fault:
        raise UserError(f"the baseline cannot be compressed: {fault}", hint)
    try:
        return scorer.score(deployable, split, strict=True, pause=pause)
    except TrialFailed as failed:
        raise UserError(f"the baseline cannot be compressed: {failed}", hint) from None

"""Transfer sets that a data source makes from the teacher of a benchmark.

They are stored in the cache folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from autocompress import models
from autocompress.compute import Compute
from autocompress.contract import Context, DataSource, TransferSet, Value, manager
from autocompress.data import TensorSplit
from autocompress.files import atomic, cache_folder, digest
from autocompress.opened.baseline import weights_key
from autocompress.store import save_tensors
from autocompress.synthesis import data_info
from autocompress.training import TrainSettings, default_device, train
from shared.asked import params_of

CALIBRATION_IMAGES = 256


def source_named(name: str) -> DataSource:
    """An installed data source."""
    found = next(method for method in manager().methods() if method.name == name)
    assert isinstance(found, DataSource)
    return found


def made(
    name: str, values: Mapping[str, Value], teacher: nn.Module, seed: int, student: nn.Module | None = None
) -> TransferSet:
    """The transfer set of a source; kept where no student is asked.

    Args:
        name: name of the source.
        values: parameters of the source that differ from the defaults.
        teacher: float network in eval mode.
        seed: random seed of the images.
        student: the student in training, for a source that adapts.
    """
    source = source_named(name)
    params = params_of(source, teacher, values)
    context = Context(models.input_size(teacher), compute=Compute.on(default_device()), seed=seed)
    if student is not None:
        return source.apply(_on(teacher, context), params, context, student)
    key = digest("benchmark", name, source.version, params, seed, weights_key(teacher))
    path = cache_folder() / "benchmarks" / f"{name}-{key[:16]}.safetensors"
    if not path.exists():
        found = source.apply(_on(teacher, context), params, context)
        _save(found, path)
    return _load(path, teacher, key)


def _on(teacher: nn.Module, context: Context) -> nn.Module:
    return copy.deepcopy(teacher).to(context.device).eval()


def _save(transfer: TransferSet, path: Path) -> None:
    images, labels = next(iter(transfer.train.loader(len(transfer.train))))
    tensors = {"images": images, "labels": labels, "temperature": torch.tensor(transfer.temperature)}
    tensors |= {} if transfer.soft_targets is None else {"soft": transfer.soft_targets}
    tensors |= {f"demand.{name}": torch.ones(1) for name in transfer.demands}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        save_tensors(tensors, temporary)


def _load(path: Path, teacher: nn.Module, key: str) -> TransferSet:
    tensors = load_file(path)
    train_split = TensorSplit(tensors["images"], tensors["labels"], data_info(teacher))
    return TransferSet(
        train=train_split,
        calibration=train_split.subset(CALIBRATION_IMAGES),
        digest=key,
        soft_targets=tensors.get("soft"),
        temperature=float(tensors["temperature"]),
        labelled=False,
        demands=frozenset(name.removeprefix("demand.") for name in tensors if name.startswith("demand.")),
    )


def both(first: TransferSet, second: TransferSet) -> TransferSet:
    """The images of two sets. The teacher gives the targets for all of them."""
    parts = [next(iter(found.train.loader(len(found.train)))) for found in (first, second)]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    joined = TensorSplit(images, labels, first.train.info)
    return replace(first, train=joined, soft_targets=None, digest=digest(first.digest, second.digest), labelled=False)


def taught(
    student: nn.Module,
    teacher: nn.Module,
    transfer: TransferSet,
    steps: int,
    *,
    batch_size: int,
    seed: int,
    lr: float = 2e-3,
    temperature: float = 4.0,
    **settings: Any,
) -> nn.Module:
    """Trains ``student`` in place for ``steps`` on outputs of the teacher for augmented images."""
    per_epoch = max(len(transfer.train) // batch_size, 1)
    train(
        student,
        transfer.train,
        TrainSettings(
            epochs=steps / per_epoch, lr=lr, batch_size=batch_size, distill=1.0, temperature=temperature, **settings
        ),
        teacher=teacher,
        labelled=False,
        device=default_device(),
        seed=seed,
        freeze_batch_norm=False,
    )
    return student.eval()

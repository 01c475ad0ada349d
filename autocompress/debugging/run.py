"""Debugs one trial of a run: compares its artifact with the baseline of the job."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress import data, models
from autocompress.compression.artifact import PLAN_FILE, load
from autocompress.compute import compute_of
from autocompress.contract import Manager, manager
from autocompress.data import Split
from autocompress.debugging.advice import exclusions
from autocompress.debugging.artifacts import chosen
from autocompress.errors import UserError
from autocompress.job import Job, load_job
from autocompress.layer_errors import LayerError, compare_layers, folded, kept_channels
from autocompress.opened.baseline import baseline_key
from autocompress.results import JOB_FILE, read
from autocompress.searching.begun import as_begun
from autocompress.searching.records import read_baseline_key, read_begun
from autocompress.training import limit_threads, train_baseline

IMAGES = 32
PARTED_DB = 10.0
"""Decibels below which a layer has diverged from the baseline.

The difference then has more than a tenth of the power of the output.
"""

Progress = Callable[[float, str], None]
log = logging.getLogger("autocompress")


@dataclass(frozen=True)
class Debugged:
    """The result of debugging a trial.

    Attributes:
        trial: number of the model's trial.
        layers: those that both networks have, in the order in which they run.
        others: layers of the baseline that the compressed network lacks or replaced.
        bits: bits of weights and activations as text, by layer.
        kl: divergence of the logits, in nats.
        equal: percent of images with the same label.
        images: their number and kind.
        parted: the first layer below ``PARTED_DB``; None if there is none.
        exclusions: lines for a job's ``space:``.
    """

    trial: int
    layers: Sequence[LayerError]
    others: Sequence[str]
    bits: dict[str, str]
    kl: float
    equal: float
    images: str
    parted: str | None
    exclusions: Sequence[str]


def debug(
    run: str | Path, trial: int | None = None, *, images: int = IMAGES, progress: Progress | None = None
) -> Debugged:
    """Runs the baseline and the compressed network of a trial side by side on some images.

    Both networks have folded batch norms, so the output of a layer is that behind the norm and
    before the activation. A baseline that the search trained is read from the cache folder.

    Args:
        run: ``results/<name>``.
        trial: one that has a model; the recommended one by default.
        images: number of validation images; noise if the job has none.
        progress: told the finished fraction and a word.

    Raises:
        UserError: if ``run`` is not a run, has no such model, or its data or weights are missing.
    """
    result = read(run)
    number, folder = chosen(result, trial)
    home = result.folder.resolve()  # it may have been moved or renamed since
    job = load_job(home / JOB_FILE).model_copy(update={"results": home.parent, "name": home.name})
    plugins = _plugins(job)
    compressed = load(folder, plugins)
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    methods = {method.name: method for method in plugins.methods()}
    limit_threads(compute_of(job.compute).threads)
    model, split = _baseline(job, plugins)
    batch, of = _images(split, models.input_size(model), images)
    kept = kept_channels(model, plan["transforms"], methods)
    reference = folded(model, methods)
    task = models.data_info(model).task.task()
    found = compare_layers(reference, folded(compressed, methods), kept, batch, progress, task)
    return Debugged(
        trial=number,
        layers=found.layers,
        others=_others(model, found.layers),
        bits={name: _bits(told) for name, told in ((plan["quantization"] or {}).get("layers") or {}).items()},
        kl=found.kl,
        equal=found.equal,
        images=f"{found.images} {of}",
        parted=next((one.layer for one in found.layers if one.snr_db < PARTED_DB), None),
        exclusions=exclusions(found.layers, kept, plan),
    )


def _plugins(job: Job) -> Manager:
    """The manager with those plugin files of the job that exist; a model may need none of them."""
    found = manager()
    for path in job.plugins:
        if path.is_file():
            found.add_file(path)
        else:
            log.warning("the plugin file %s of the job is missing", path)
    return found


def _study_of(job: Job) -> tuple[dict[str, Any] | None, str | None]:
    """The record of the search, and the key of its baseline; None if they cannot be read."""
    try:
        return read_begun(job.folder, job.search.storage), read_baseline_key(job.folder, job.search.storage)
    except UserError as error:
        log.warning("it is not checked that the baseline is the one of the search: %s", error)
        return None, None


def _check_weights(model: nn.Module, known: str | None) -> None:
    """Refuses a baseline that was trained again since the search, because it has other weights.

    Raises:
        UserError: if it was trained again.
    """
    if known is not None and known != baseline_key(model):
        raise UserError(
            "the baseline in the cache folder is not the one that this run began with",
            "use the AUTOCOMPRESS_CACHE and the versions of libraries of the search",
        )


def _baseline(job: Job, plugins: Manager) -> tuple[nn.Module, Split | None]:
    """The float network, and the validation images; None if the job has none."""
    split: Split | None = None
    if job.data.words:
        has_weights = job.pretrained or job.checkpoint is not None
        splits = data.load(job.data, plugins.datasets(), **models.preprocessing(job), has_weights=has_weights)
        knows_classes = splits.info.num_classes > 0
        model = models.create(job, splits.info if knows_classes else None)
        splits = splits if knows_classes else splits.prepared(models.data_info(model))
        if models.needs_training(job, splits.info):
            begun, key = _study_of(job)
            job = as_begun(job, begun)
            model = train_baseline(job, model, splits, compute=compute_of(job.compute), only_kept=True)
            _check_weights(model, key)
        split = splits.val if len(splits.val) else splits.test
    else:
        model = models.create(job, None)
    return models.reparameterise(model).cpu().eval(), split


def _images(split: Split | None, size: tuple[int, int, int], most: int) -> tuple[torch.Tensor, str]:
    """Images ``(N, C, H, W)`` and their description."""
    if split is None or not len(split):
        return torch.randn(most, *size, generator=torch.Generator().manual_seed(0)), "images of noise"
    some = split.subset(most)
    return torch.cat([batch for batch, _ in some.loader(64)]), "validation images"


def _others(model: nn.Module, layers: Sequence[LayerError]) -> list[str]:
    known = {one.layer for one in layers}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name not in known
    ]


def _bits(told: dict[str, Any]) -> str:
    weight, activation = told["weight_bits"], told["activation_bits"]
    return f"int{weight}" if weight == activation else f"W{weight}A{activation}"

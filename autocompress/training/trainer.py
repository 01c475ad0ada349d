"""Trains models from start to end. The result for a baseline is stored."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autocompress import models
from autocompress.compat.torch import BatchNormBase
from autocompress.compute import Compute, default_device
from autocompress.data import Split, Splits
from autocompress.errors import TooLittleMemory, TrialFailed, UserError
from autocompress.files import atomic, cache_folder, digest, full_disk_told
from autocompress.job import Job
from autocompress.store import fetch_shared, offer_shared, save_tensors
from autocompress.training import handed
from autocompress.training.checkpoint import Checkpoint
from autocompress.training.computing import computed_with
from autocompress.training.evaluation import logits
from autocompress.training.loop import Training
from autocompress.training.recovery import SMALLEST_BATCH, STEPS
from autocompress.training.settings import Progress, TrainResult, TrainSettings

log = logging.getLogger("autocompress")

VERSION = 1
"""Version of this training, part of the key of stored baselines."""
ADDED = ("least_steps", "accumulate", "ema")
"""Settings that keys of earlier versions lack; a key only has them if they are not the default."""
DIVERGED = 2.0
"""A baseline has diverged if its loss exceeds two losses by this factor.

These are the loss of the untrained network and the loss of constant predictions.
"""


def train(model: nn.Module, split: Split, settings: TrainSettings, **options: Any) -> TrainResult:
    """Trains ``model`` in place from start to end; ``options`` are those of :class:`Training`.

    Raises:
        TrialFailed: if the loss is not a finite number.
    """
    return Training(model, split, settings, **options).run()


def baseline_settings(job: Job, images: int | None = None) -> TrainSettings:
    """Settings for training a baseline without weights.

    Args:
        job: job with the settings of the baseline.
        images: number of training images. If the epochs of the job give fewer steps than its
            minimum of steps, batches are smaller, so that the steps take less time.
    """
    own = job.baseline
    settings = TrainSettings(
        epochs=own.epochs,
        lr=own.lr,
        batch_size=own.batch_size,
        label_smoothing=0.1,
        least_steps=own.steps,
        accumulate=own.accumulate,
        ema=own.ema,
    )
    if images is None or own.epochs * images >= own.steps * own.batch_size * own.accumulate:
        return replace(settings, least_steps=0)
    return replace(settings, batch_size=min(own.batch_size, max(SMALLEST_BATCH, images // STEPS)))


def train_baseline(
    job: Job,
    model: nn.Module,
    splits: Splits,
    progress: Progress | None = None,
    *,
    compute: Compute | None = None,
    pause: Callable[[], None] | None = None,
    before: Callable[[], None] | None = None,
    only_kept: bool = False,
) -> nn.Module:
    """Trains ``model`` with the baseline settings of the job, or loads an earlier result.

    The result is in eval mode, on the CPU, and reparameterised where timm supports that. It is
    stored in the cache folder. The key has everything that decides the result: architecture,
    training images, settings, seed, library versions, and the way of computing. Weights that
    another process has trained (``training.handed``) are taken as they are. ``before`` is only
    called if there is no earlier result.

    Raises:
        UserError: if there are no training images, or the training diverged: loss, weights or
            logits are not finite, or the loss is far above that of the untrained network. Nothing
            is stored then. With ``only_kept``, if there is no earlier result.
    """
    settings = baseline_settings(job, len(splits.train))
    weights = "pretrained" if job.pretrained else "random"
    silenced = [] if job.pretrained else models.silence_residual_branches(model)
    compute = compute or Compute.on(default_device())
    made_with = [computed_with(compute), VERSION, silenced]
    usual = asdict(TrainSettings())
    asked = {name: value for name, value in asdict(settings).items() if name not in ADDED or value != usual[name]}
    key = digest(models.architecture(model), weights, splits.train.digest, asked, job.seed, made_with)
    path = _place_of(job, key)
    if not _loaded(model, path):
        if only_kept:
            raise UserError(
                f"the trained baseline is not in {path.parent}", "set AUTOCOMPRESS_CACHE as the search had it"
            )
        require_training_images(job, splits)
        _check_room(model, path.parent)
        if before is not None:
            before()
        checkpoint = Checkpoint.of(key)
        told = None if progress is None else _naming_the_baseline(progress)
        how: dict[str, Any] = {"compute": compute, "seed": job.seed, "progress": told, "pause": pause}
        _train_checked(job, model, splits.train, settings, checkpoint, **how)
        with full_disk_told(path.parent, "make room, or set AUTOCOMPRESS_CACHE"), atomic(path) as temporary:
            save_tensors(model.state_dict(), temporary)
        offer_shared(_shared_name(key), path)
        checkpoint.drop()
    return models.reparameterise(model.cpu()).eval()


def _naming_the_baseline(progress: Progress) -> Progress:
    """``progress`` with texts that name the work: ``training the baseline, epoch 7``."""
    return lambda fraction, text: progress(fraction, f"training the baseline, {text}")


def _train_checked(
    job: Job, model: nn.Module, split: Split, settings: TrainSettings, checkpoint: Checkpoint, **options: Any
) -> None:
    """Trains a baseline; ``options`` are those of :class:`Training`, with ``compute``.

    Raises:
        UserError: if memory does not suffice, or the training diverged.
    """
    trains = bool(settings.epochs or settings.least_steps)
    untrained = _loss_by_batch_statistics(model.to(options["compute"].device), split) if trains else 0.0
    try:
        train(model, split, settings, checkpoint=checkpoint, **options)
        _check_trained(model, split)
        if trains:
            _check_converged(model, split, untrained)
    except TooLittleMemory as error:
        raise UserError(
            f"the baseline '{job.model}' cannot be trained here: {error}",
            "lower the size of the images, or set compute.device to cpu",
        ) from None
    except TrialFailed as error:
        checkpoint.drop()
        raise UserError(
            f"the training of the baseline '{job.model}' diverged: {error}",
            f"lower 'baseline.lr', which is {settings.lr:g}, or raise 'baseline.epochs', which is {settings.epochs:g}",
        ) from None


def _place_of(job: Job, key: str) -> Path:
    """Where the trained baseline is, or will be; it may have come from the shared cache."""
    path = handed.given() or cache_folder("baselines") / f"{job.model.replace('/', '-')}-{key[:16]}.safetensors"
    handed.keep(path)
    if not path.exists():
        fetch_shared(_shared_name(key), path)
    return path


def _shared_name(key: str) -> str:
    return f"baselines/{key}.safetensors"


def _check_room(model: nn.Module, folder: Path) -> None:
    """Refuses to train a baseline that cannot be stored, because workers load it from the cache."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if shutil.disk_usage(folder).free < needed:
        raise UserError(
            f"there is no room left in {folder} for the baseline of {needed / 1e6:.1f} MB",
            "make room, or set AUTOCOMPRESS_CACHE",
        )


def _check_trained(model: nn.Module, split: Split) -> None:
    """Refuses a trained model with numbers that are not finite.

    Raises:
        TrialFailed: naming the tensor, or the logits.
    """
    from autocompress.export import AGREEMENT_IMAGES  # takes a second to import

    if fault := models.faulty_tensor(model.state_dict()):
        raise TrialFailed(fault)
    some = split.subset(AGREEMENT_IMAGES)
    if not bool(logits(model, some).isfinite().all()):
        raise TrialFailed("its logits are not finite numbers")


def _check_converged(model: nn.Module, split: Split, untrained: float) -> None:
    """Refuses a model with a loss that training increased much, even if all numbers are finite.

    With too few epochs, the loss stays near that of the untrained network (about ln(classes) for
    classes). With a learning rate that is far too high, logits and loss grow by orders of
    magnitude. ``DIVERGED`` is between the two.

    Args:
        model: trained.
        split: the training images.
        untrained: the loss before the training (:func:`_loss_by_batch_statistics`).

    Raises:
        TrialFailed: naming both losses.
    """
    loss, constant = _loss_by_batch_statistics(model, split), split.task.uninformed_loss(split.num_classes)
    if not loss <= DIVERGED * max(untrained, constant):
        equal = f", and equal probabilities for all classes give {constant:.3g}" if constant else ""
        raise TrialFailed(f"its loss on training images went from {untrained:.3g} to {loss:.3g}{equal}")


@torch.no_grad()
def _loss_by_batch_statistics(model: nn.Module, split: Split) -> float:
    """Mean loss over a few images of ``split``, with batch statistics.

    After a few steps, the running statistics of batch norms are still wrong. ``model`` is not
    changed.
    """
    from autocompress.export import AGREEMENT_IMAGES  # takes a second to import

    probe = copy.deepcopy(model).eval()
    for module in probe.modules():
        if isinstance(module, BatchNormBase):
            module.train()
    images, labels = next(iter(split.subset(AGREEMENT_IMAGES).loader(AGREEMENT_IMAGES)))
    device = models.device_of(model)
    return float(split.task.loss(probe(images.to(device)).float(), labels.to(device)))


def require_training_images(job: Job, splits: Splits) -> None:
    """Checks that there are training images if the baseline must be trained.

    Raises:
        UserError: if there are none.
    """
    if (splits.unlabelled or not len(splits.train)) and job.baseline.epochs:
        what = "has no weights" if not job.pretrained else "has weights for other classes than those of the data,"
        lacking = "its pictures have no labels" if splits.unlabelled else "there is no data to train it on"
        raise UserError(f"'{job.model}' {what} and {lacking}", "give checkpoint: PATH")


def _loaded(model: nn.Module, path: Path) -> bool:
    """Loads the weights of ``path`` into ``model``; False if there are no usable weights."""
    if not path.exists():
        return False
    try:
        state = load_file(path)
        copy.deepcopy(model).load_state_dict(
            state
        )  # a copy first, because weights that do not fit would be loaded in part
        if fault := models.faulty_tensor(state):
            raise RuntimeError(fault)
        model.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        log.warning("%s cannot be used (%s); the baseline is trained again", path, error)
        return False
    return True

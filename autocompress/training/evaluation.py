"""Metrics of torch models, and recalibration of batch norms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import nn

from autocompress.compat.torch import BatchNormBase
from autocompress.data import Split
from autocompress.errors import TrialFailed
from autocompress.graph import evaluating
from autocompress.models import device_of


@torch.no_grad()
def _batches(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None,
    batch_size: int,
    pause: Callable[[], None] | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Outputs batch by batch, float32 on the device, and labels."""
    device = torch.device(device) if device is not None else device_of(model)
    with evaluating(model.to(device)):
        for images, labels in split.loader(batch_size).on(device):
            yield model(images).float(), labels
            if pause is not None:
                pause()


def logits(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    pause: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Outputs for all images, float32 on the CPU; logits ``(N, classes)`` for classes.

    The model is moved to ``device``, and its training flag is restored. ``pause`` is called between
    batches and may wait for a measurement on this machine.
    """
    found = [batch.cpu() for batch, _ in _batches(model, split, device, batch_size, pause)]
    return torch.cat(found) if found else torch.zeros(0, split.num_classes)


def predictions(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    pause: Callable[[], None] | None = None,
) -> torch.Tensor:
    """The class of the largest logit for each image, int64 ``(N,)`` on the CPU.

    It is -1 where a logit is not finite. Arguments as for :func:`logits`; logits are not kept,
    because those of 50,000 images and 1,000 classes take 200 MB.
    """
    found = [_largest(batch).cpu() for batch, _ in _batches(model, split, device, batch_size, pause)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _largest(batch: torch.Tensor) -> torch.Tensor:
    return torch.where(batch.isfinite().all(1), batch.argmax(1), -1)


def evaluate(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    pause: Callable[[], None] | None = None,
) -> tuple[float, np.ndarray]:
    """The metric of the task in percent, and ``Task.marks`` of each image; NaN for an empty split.

    For classes, these are the accuracy and whether each image was classified correctly, bool
    ``(N,)``. Arguments as for :func:`logits`.

    Raises:
        TrialFailed: in a task other than classification, if outputs are not finite.
    """
    task = split.task
    found = [
        task.marks(_finite(outputs, split), labels.to(outputs.device)).cpu()
        for outputs, labels in _batches(model, split, device, batch_size, pause)
    ]
    if not found:
        return float("nan"), np.zeros(0, bool)
    marks = torch.cat(found).numpy()
    return task.metric(marks), marks


def _finite(outputs: torch.Tensor, split: Split) -> torch.Tensor:
    """``outputs``, checked to be finite if the task is not classification.

    Other metrics cannot treat the images with NaN or infinite outputs as wrong.
    """
    if not split.info.task.is_classification and not bool(outputs.isfinite().all()):
        raise TrialFailed("the model's outputs are not finite numbers on some images")
    return outputs


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module,
    split: Split,
    images: int = 1024,
    device: torch.device | str | None = None,
    *,
    seed: int = 0,
    batch_size: int = 128,
    pause: Callable[[], None] | None = None,
    only: Collection[nn.Module] | None = None,
) -> int:
    """Replaces the running statistics of batch norms by averages over at most ``images`` images.

    Statistics are reset first and then averaged over the batches with equal weight. All other
    layers are in eval mode.

    Args:
        only: only these norms are changed. For images that differ from the data: norms behind new
            layers need statistics of these images, but for other norms the recorded statistics of
            the data are better (``freeze_batch_norm``).

    Returns:
        Number of images that were used. If there is no batch norm or no image, it is 0, and nothing
        was changed.
    """
    wanted = None if only is None else set(only)
    norms = [
        m
        for m in model.modules()
        if isinstance(m, BatchNormBase) and m.track_running_stats and (wanted is None or m in wanted)
    ]
    if not norms or len(split) < 2:
        return 0
    device = torch.device(device) if device is not None else device_of(model)
    chosen = split.subset(images, seed)
    batch_size = min(batch_size, len(chosen))
    momenta = [norm.momentum for norm in norms]
    used = 0
    with evaluating(model.to(device)):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # None is the plain average over batches
            norm.train()
        try:
            for batch, _ in chosen.loader(batch_size, shuffle=True, seed=seed, drop_last=True).on(device):
                model(batch)
                used += len(batch)
                if pause is not None:
                    pause()
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return used

"""Accuracy of torch models, and recalibration of batch norms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import nn

from autocompress.compat.torch import BatchNormBase
from autocompress.data import Split
from autocompress.graph import evaluating
from autocompress.models import device_of


@torch.no_grad()
def _batches(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None,
    batch_size: int,
    pause: Callable[[], None] | None,
) -> Iterator[torch.Tensor]:
    """Logits batch by batch, float32 ``(n, classes)`` on the device."""
    device = torch.device(device) if device is not None else device_of(model)
    with evaluating(model.to(device)):
        for images, _ in split.loader(batch_size).on(device):
            yield model(images).float()
            if pause is not None:
                pause()


def logits(
    model: nn.Module,
    split: Split,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    pause: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Logits for all images, float32 ``(N, classes)`` on the CPU.

    The model is moved to ``device``, and its training flag is restored. ``pause`` is called between
    batches and may wait for a measurement on this machine.
    """
    found = [batch.cpu() for batch in _batches(model, split, device, batch_size, pause)]
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
    found = [_largest(batch).cpu() for batch in _batches(model, split, device, batch_size, pause)]
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
    """Accuracy in percent, and whether each image was classified correctly, bool ``(N,)``.

    An empty split gives NaN. Arguments as for :func:`logits`.
    """
    correct = (predictions(model, split, device, batch_size, pause) == split.labels()).numpy()
    return (100.0 * float(correct.mean()) if len(correct) else float("nan")), correct


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
        Number of images that were used; 0 where there is no batch norm or no image, so that nothing
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

"""Estimates the memory for moments of large networks, before a search."""

from __future__ import annotations

import psutil
import torch
from torch import nn

from autocompress import models
from autocompress.job import Job
from autocompress.repair import MOST_COLUMNS, columns_of, has_columns

FLOAT64, FLOAT32 = 8, 4
WORTH_TELLING = 1e9
"""Bytes of all processes below which there is no note."""
SAMPLES = 8192
"""Samples of a layer whose moments are stored as samples (512 images, 16 positions each)."""


def moments_bytes(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Bytes of the moments of all layers that can be refitted, in one process.

    A layer with more than ``MOST_COLUMNS`` columns keeps samples, others a matrix for each group.
    Kernel taps that only read padding have no columns.

    Args:
        model: network in any mode, on the CPU.
        input_size: (channels, height, width) of an image.
    """
    stem = models.stem(model)
    layers = [name for name, layer in model.named_modules() if name not in stem and has_columns(layer)]
    with torch.no_grad():
        every = columns_of(model, layers, torch.zeros(1, *input_size))
    return sum(
        FLOAT64 * own.groups * own.width**2 if own.width <= MOST_COLUMNS else FLOAT32 * SAMPLES * own.groups * own.width
        for own in every.values()
    )


def memory_notes(job: Job, model: nn.Module) -> tuple[str, ...]:
    """A note if moments take much memory, or more than is free for all workers together.

    Args:
        job: job of the search.
        model: the float baseline.
    """
    if not job.search.repair:
        return ()
    each = moments_bytes(model, models.input_size(model))
    needed, free = each * (job.workers + 1), psutil.virtual_memory().available  # + 1: the driver
    if needed < min(WORTH_TELLING, free):
        return ()
    told = f"estimate: the moments of the layers take {each / 1e9:.1f} GB in each of {job.workers + 1} processes"
    if needed > free:
        told += f", and {free / 1e9:.1f} GB are free: lower workers, or set search.repair to false"
    return (told,)

"""Estimates the memory for moments of large networks, before a search."""

from __future__ import annotations

import psutil
from torch import nn

from autocompress import models
from autocompress.job import Job
from autocompress.repair import MOST_COLUMNS, has_columns

FLOAT64, FLOAT32 = 8, 4
WORTH_TELLING = 1e9
"""Bytes of all processes below which there is no note."""
SAMPLES = 8192
"""Samples of a layer whose moments are stored as samples (512 images, 16 positions each)."""


def moments_bytes(model: nn.Module) -> int:
    """Bytes of the moments of all layers that can be refitted, in one process.

    A layer with more than ``MOST_COLUMNS`` columns keeps samples, others a matrix for each group.
    """
    total = 0
    stem = models.stem(model)
    for name, layer in model.named_modules():
        if name in stem or not has_columns(layer):
            continue
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        groups, width = int(getattr(layer, "groups", 1)), weight[0].numel()
        total += FLOAT64 * groups * width**2 if width <= MOST_COLUMNS else FLOAT32 * SAMPLES * width
    return total


def memory_notes(job: Job, model: nn.Module) -> tuple[str, ...]:
    """A note if moments take much memory, or more than is free for all workers together.

    Args:
        job: of the search.
        model: the float baseline.
    """
    if not job.search.repair:
        return ()
    each = moments_bytes(model)
    needed, free = each * (job.workers + 1), psutil.virtual_memory().available  # the driver makes tables
    if needed < min(WORTH_TELLING, free):
        return ()
    told = f"estimate: the moments of the layers take {each / 1e9:.1f} GB in each of {job.workers + 1} processes"
    if needed > free:
        told += f", and {free / 1e9:.1f} GB are free: lower workers, or set search.repair to false"
    return (told,)

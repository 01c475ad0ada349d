"""Shares the GPUs of a machine between workers."""

from __future__ import annotations

import math

RAY_STEPS = 10_000
"""Ray counts fractions of a GPU in steps of 1 / 10,000."""


def gpu_plan(gpus: int, workers: int) -> float:
    """The share of a GPU for each worker, as a resource of Ray.

    A trial uses one GPU, so a worker never gets more than one. With fewer GPUs than workers, at
    most ``ceil(workers / gpus)`` workers share a GPU. All workers fit on the GPUs at the same time.

    Args:
        gpus: number of GPUs, 0 or more.
        workers: number of workers, 1 or more.

    Returns:
        1.0 if every worker gets a GPU of its own; a fraction, rounded down to what Ray can
        count, where they share; 0.0 without GPUs.

    Raises:
        ValueError: if ``gpus`` is negative, or there is no worker.
    """
    if gpus < 0 or workers < 1:
        raise ValueError(f"{gpus} GPUs cannot be shared by {workers} workers")
    if gpus == 0:
        return 0.0
    sharing = math.ceil(workers / gpus)
    return max(1, RAY_STEPS // sharing) / RAY_STEPS

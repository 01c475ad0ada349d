"""The number of threads of torch. On some virtual machines, one thread is the fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from autocompress.processors import usable_processors

GAIN = 0.9
"""Several threads are used if they take at most this share of the time of one thread."""
ROUNDS = 3


def limit_threads(asked: int | None = None) -> None:
    """Limits torch's threads to the processors of this process, and to one if that is faster.

    In a container, torch would use all processors of the machine. A number from the environment
    (``OMP_NUM_THREADS``) is kept.

    Args:
        asked: number of threads to use instead; None: chosen here.
    """
    if asked is not None:
        torch.set_num_threads(asked)
        return
    threads = min(torch.get_num_threads(), usable_processors())
    if threads > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = useful_threads(threads)
    torch.set_num_threads(threads)


@cache
def useful_threads(most: int) -> int:
    """``most``, or 1 if ``most`` threads do not make a step of a small network faster.

    Both numbers are timed alternately, which takes a tenth of a second.
    """
    step = _step()
    before = torch.get_num_threads()
    seconds: dict[int, list[float]] = {1: [], most: []}
    try:
        for _ in range(1 + ROUNDS):
            for threads, own in seconds.items():
                torch.set_num_threads(threads)
                started = time.perf_counter()
                step()
                own.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    alone, together = (min(own[1:]) for own in seconds.values())  # the first round is warm-up
    return most if together <= GAIN * alone else 1


def _step() -> Callable[[], None]:
    """A training step of a small network."""
    network = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3))
    images = torch.zeros((32, 32, 16, 16))

    def step() -> None:
        network.zero_grad()
        network(images).square().mean().backward()

    return step

"""Interleaved timing: two functions in turn, in blocks bounded by time, and what their ratio is worth."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from scipy.stats import binom

BLOCK_SECONDS = 0.025
"""How long a function is run before it is the other's turn: short against the drift of a machine's speed (heat,
neighbours), long enough for caches to be its own after the first runs."""

WARM_UP_RUNS = 2
"""Runs at the start of a block that are not counted: the other one's data is in the caches."""

FEWEST_PAIRS = 6
"""With fewer there is no 95 % interval of a median: 2 * 0.5^5 > 0.05."""


@dataclass
class Pairs:
    """Blocks of two functions, in pairs: the median seconds of a run in each block."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """First over second, a number for each pair."""
        return [a / b for a, b in zip(self.first, self.second, strict=True)]


def time_pairs(first: Callable[[], object], second: Callable[[], object], pairs: Pairs, seconds: float) -> None:
    """Adds pairs of blocks to ``pairs`` for about ``seconds``, at least one. Which function comes first changes from
    pair to pair, so that a steady drift cancels out."""
    started = time.perf_counter()
    with _no_garbage_collection():
        while True:
            began = time.perf_counter()
            if len(pairs.first) % 2:
                other = block(second)
                one = block(first)
            else:
                one = block(first)
                other = block(second)
            pairs.first.append(one)
            pairs.second.append(other)
            now = time.perf_counter()
            if now - started + (now - began) / 2 > seconds:
                return


def block(function: Callable[[], object]) -> float:
    """Median seconds of a run, over the runs of one block."""
    started = time.perf_counter()
    for count in range(1, WARM_UP_RUNS + 1):
        function()
        elapsed = time.perf_counter() - started
        if elapsed > BLOCK_SECONDS:
            return elapsed / count  # runs this long fill the caches with their own data as they go
    runs: list[float] = []
    before = started = time.perf_counter()
    while before - started < BLOCK_SECONDS:
        function()
        now = time.perf_counter()
        runs.append(now - before)
        before = now
    return statistics.median(runs)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection takes tens of milliseconds where torch is loaded."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of ``values`` and a confidence interval of it from order statistics, whatever the distribution.

    The number of values below the true median is binomial with one half, so the interval from the k-th smallest to the
    k-th largest value holds it with probability 1 - 2 * P(fewer than k below). Too few values give their whole range,
    which holds it with less.

    Returns:
        (median, low, high).
    """
    ordered = sorted(values)
    count = len(ordered)
    # The largest k for which P(fewer than k below) stays within half of what may be missed.
    rank = int(binom.ppf((1 - confidence) / 2, count, 0.5))
    rank = max(rank, 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[count - rank]

"""Interleaved timing: alternating blocks of two functions, and the interval of their ratio."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

Clock = Callable[[], float]
"""A clock in seconds: ``time.perf_counter`` (wall time) or ``time.thread_time``.

``time.thread_time`` is the processor time of this thread, which other processes do not lengthen.
"""

BLOCK_SECONDS = 0.025
"""Seconds of a block before the other function runs.

It is short compared with changes of the speed of a machine (heat, other processes), and long enough
for the caches.
"""

WARM_UP_RUNS = 2
"""Runs at the start of a block that do not count, because the caches have the other data."""

FEWEST_PAIRS = 6
"""Minimum number of pairs for a 95 % interval of a median: with 5 pairs, 2 * 0.5^5 > 0.05."""

DRIFT = 0.2
"""Share of the variance between sittings that does not average out within a measurement.

The state of the machine changes more slowly than a measurement lasts. With five times as many
runnable processes as processors, whole measurements of a ResNet-18 at 32 pixels scattered as much
as the sittings of one (6 %). ``benchmarks/intervals.py`` measures the coverage.
"""

REPRODUCIBLE = 0.015
"""Relative half-width of the narrowest interval, for changes from day to day.

Examples are the placement of memory and the temperature.
"""

FEWEST_SITTINGS = 3
"""Minimum number of sittings for an estimate of their scatter."""

FEWEST_TO_TRIM = 5
"""Minimum number of sittings for replacing the largest and the smallest by their neighbours."""


@dataclass
class Pairs:
    """Blocks of two functions, in pairs: the median seconds of a run in each block.

    Attributes:
        first, second: median seconds of each block of the first and of the second function.
        turn: 0 if the first pair begins with the first function, 1 if with the second.
    """

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    turn: int = 0

    @property
    def ratios(self) -> list[float]:
        """First divided by second, for each pair."""
        return [a / b for a, b in zip(self.first, self.second, strict=True)]


def time_pairs(
    first: Callable[[], object],
    second: Callable[[], object],
    pairs: Pairs,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> None:
    """Adds pairs of blocks to ``pairs`` for about ``seconds`` of wall time, at least one.

    Runs are timed by ``clock``. Which function comes first changes from pair to pair, so that a
    steady drift cancels out.
    """
    started = time.perf_counter()
    with _no_garbage_collection():
        while True:
            began = time.perf_counter()
            if (len(pairs.first) + pairs.turn) % 2:
                other = block(second, clock)
                one = block(first, clock)
            else:
                one = block(first, clock)
                other = block(second, clock)
            pairs.first.append(one)
            pairs.second.append(other)
            now = time.perf_counter()
            if now - started + (now - began) / 2 > seconds:
                return


def block(function: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Median seconds of a run by ``clock``, over the runs of one block."""
    end = time.perf_counter() + BLOCK_SECONDS
    started = clock()
    for count in range(1, WARM_UP_RUNS + 1):
        function()
        if time.perf_counter() > end:
            return (clock() - started) / count  # runs this long need no warm-up for the caches
    runs: list[float] = []
    end = time.perf_counter() + BLOCK_SECONDS
    before = clock()
    while not runs or time.perf_counter() < end:
        function()
        now = clock()
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
    """Median of ``values`` and its confidence interval from order statistics.

    The number of values below the true median is binomial with one half, so the interval from the
    k-th smallest to the k-th largest value contains it with probability 1 - 2 * P(fewer than k
    below). For too few values the interval is their whole range, with a lower probability.

    Returns:
        (median, low, high).
    """
    from scipy import special  # slow to import, and listing devices does not need it

    ordered = sorted(values)
    count = len(ordered)
    # The largest k with P(fewer than k below) at most half of 1 - confidence.
    tail = (1 - confidence) / 2
    rank = max(next(k for k in range(count + 1) if special.bdtr(k, count, 0.5) >= tail), 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[count - rank]


def ratio_interval(sittings: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of the ratios of all sittings, and an interval for later medians.

    Blocks of one sitting are not independent: they share the placement of memory and the state of
    the machine. So an interval from the order statistics of all blocks would be too narrow. It is
    widened to

        ratio * exp(+-h),   h^2 = (t s n / m)^2 (1 / n + DRIFT) + REPRODUCIBLE^2,

    where s is the winsorized standard deviation of the log medians of the n sittings, and t
    Student's quantile with m - 1 degrees of freedom. With five sittings or more, the largest and
    the smallest are replaced by their neighbours (m = n - 2, else m = n). So a single sitting that
    another process disturbed does not make the interval useless (Tukey and McLaughlin 1963).

    Args:
        sittings: ratios of the pairs of each sitting; no sitting is empty.
        confidence: confidence of the interval.

    Returns:
        (median, low, high).
    """
    ratio, low, high = median_interval([value for sitting in sittings for value in sitting], confidence)
    from scipy import special  # slow to import, as above

    half = REPRODUCIBLE
    if (count := len(sittings)) >= FEWEST_SITTINGS:
        logs = sorted(math.log(statistics.median(sitting)) for sitting in sittings)
        kept = count
        if count >= FEWEST_TO_TRIM:
            logs, kept = [logs[1], *logs[1:-1], logs[-2]], count - 2
        scatter = statistics.stdev(logs) * count / kept
        quantile = float(special.stdtrit(kept - 1, (1 + confidence) / 2))
        half = math.hypot(quantile * scatter * math.sqrt(1 / count + DRIFT), REPRODUCIBLE)
    return ratio, min(low, ratio * math.exp(-half)), max(high, ratio * math.exp(half))

"""Measures with any device: lock, batch, candidate and baseline in turns, interval, noise."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from autocompress.contract import Deployable, Device, LayerTimes, Measurement
from autocompress.devices.lock import EXCLUSIVE_SECONDS, MachineLock
from autocompress.devices.machine import machine
from autocompress.devices.timing import (
    FEWEST_PAIRS,
    FEWEST_SITTINGS,
    Clock,
    Pairs,
    block,
    ratio_interval,
    time_pairs,
)
from autocompress.job import DeviceConfig

WIDEST_INTERVAL = 0.1
"""Of the ratio; a measurement whose interval is wider is called noisy."""

PATIENCE = 5.0
"""Times the seconds asked for: a model so slow that its runs take longer is measured with fewer
pairs, and called noisy. One whose first run alone takes longer is not run again."""

SITTINGS = 6
"""Parts of a measurement, at least: each opens both models anew and gives others their turn before
it.
"""


def measure(
    device: Device, candidate: Deployable, baseline: Deployable, config: DeviceConfig, *, seconds: float = 2.0
) -> Measurement:
    """Costs of ``candidate`` beside those of ``baseline`` on ``device``.

    A deterministic device computes them at once. On any other, both run one batch of random images.
    Blocks of some tens of milliseconds, candidate and baseline in turn, give one ratio a pair; the
    measurement is their median with a 95 % interval for the median of later measurements
    (``timing.ratio_interval``). It consists of several sittings. Each opens both models anew where
    that is quick, since the placement of memory is part of what varies, and has the machine for
    itself (``lock``).

    It takes about ``seconds``, more where that is too short for an interval (fewer than 6 pairs of
    blocks) but no more than ``PATIENCE`` times that and a run, and the time that other measurements
    and trainings need to step aside between two sittings.

    Raises:
        TrialFailed: if the device cannot load one of the models, or cannot tell its cost.
    """
    if device.deterministic:
        return device.compare(candidate, baseline, config)
    for deployable in (candidate, baseline):
        for wanted in device.formats:
            deployable.convert(wanted)  # before the lock is taken
    count = max(SITTINGS, math.ceil(seconds / EXCLUSIVE_SECONDS))
    if not device.is_local and (elsewhere := device.time_elsewhere(candidate, baseline, config, seconds, count)):
        clock = time.thread_time if device.is_in_thread(config) else time.perf_counter
        return _measurement([Pairs(list(own), list(other)) for own, other in elsewhere], device, config, clock)
    share, most = seconds / count, PATIENCE * max(seconds, 1.0)
    clock = time.thread_time if device.is_in_thread(config) else time.perf_counter
    sittings: list[Pairs] = []
    both: _Both | None = None
    spent = longest = 0.0
    while len(sittings) < count and (not sittings or spent + longest <= most):
        with _alone(device):
            began = time.perf_counter()
            if both is None or both.opened_in <= share:
                both = None  # the old ones go first, so that memory is not needed twice
                both = _Both(device, candidate, baseline, config, turn=len(sittings) % 2)
            if both.first_run > most:
                sittings.append(Pairs([both.first_run], [block(both.run_baseline, clock)]))
                break
            pairs = Pairs(turn=len(sittings) % 2)
            left = share - (time.perf_counter() - began)
            time_pairs(both.run_candidate, both.run_baseline, pairs, max(left, share / 2), clock)
            sittings.append(pairs)
            taken = time.perf_counter() - began
        spent, longest = spent + taken, max(longest, taken)
    return _measurement(sittings, device, config, clock)


def layer_times(
    device: Device, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
) -> list[LayerTimes] | None:
    """:meth:`Device.layer_times` with nothing beside it on this machine."""
    with _alone(device):
        return device.layer_times(deployables, layers, config)


@contextmanager
def _alone(device: Device) -> Iterator[None]:
    """Holds the machine's lock where the device runs on this machine."""
    if not device.is_local:
        yield
        return
    lock = MachineLock()
    try:
        with lock.exclusive():
            yield
    finally:
        lock.close()


class _Both:
    """Candidate and baseline, newly opened, each run once.

    The one that is opened first (``turn`` 0: the candidate, 1: the baseline) has other memory, and
    was up to 2 % slower.
    """

    def __init__(
        self, device: Device, candidate: Deployable, baseline: Deployable, config: DeviceConfig, turn: int
    ) -> None:
        began = time.perf_counter()
        if turn:
            self.run_baseline, _ = _opened(device, baseline, config)
        self.run_candidate, self.first_run = _opened(device, candidate, config)
        if not turn:
            self.run_baseline, _ = _opened(device, baseline, config)
        self.opened_in = time.perf_counter() - began


def _opened(device: Device, deployable: Deployable, config: DeviceConfig) -> tuple[Callable[[], object], float]:
    """A function that runs one batch and has run once, and the seconds that this took."""
    channels, height, width = deployable.input_size
    if config.input_size is not None:
        height = width = config.input_size
    shape = (config.batch, channels, height, width)
    run = device.open(deployable, np.random.default_rng(0).standard_normal(shape, dtype=np.float32), config)
    started = time.perf_counter()
    run()  # the first run allocates
    return run, time.perf_counter() - started


def _measurement(sittings: Sequence[Pairs], device: Device, config: DeviceConfig, clock: Clock) -> Measurement:
    ratio, low, high = ratio_interval([pairs.ratios for pairs in sittings])
    blocks = sum(len(pairs.first) for pairs in sittings)
    return Measurement(
        latency_ms=1e3 * statistics.median(value for pairs in sittings for value in pairs.first),
        latency_ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        baseline_ms=1e3 * statistics.median(value for pairs in sittings for value in pairs.second),
        noisy=high - low > WIDEST_INTERVAL * ratio or blocks < FEWEST_PAIRS or len(sittings) < FEWEST_SITTINGS,
        environment={
            **(machine() if device.is_local else {}),
            "threads": config.threads,
            "batch": config.batch,
            **device.environment(config),
            "clock": "processor time of the thread" if clock is time.thread_time else "wall time",
            "sittings": len(sittings),
            "pairs": blocks,
        },
    )

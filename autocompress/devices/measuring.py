"""Measures with any device: lock, batch, alternation of candidate and baseline, interval, noise."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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
from autocompress.errors import TrialFailed
from autocompress.job import DeviceConfig
from autocompress.locks import Kind

WIDEST_INTERVAL = 0.1
"""Relative width of the interval of a ratio above which a measurement is called noisy."""

PATIENCE = 5.0
"""A measurement takes at most this multiple of the requested seconds, or of 1 s if that is longer.

A slower model is measured with fewer pairs and called noisy. If its first run alone takes longer,
it is not run again.
"""

SITTINGS = 6
"""Minimum number of sittings of a measurement."""


def measure(
    device: Device, candidate: Deployable, baseline: Deployable, config: DeviceConfig, *, seconds: float = 2.0
) -> Measurement:
    """Costs of ``candidate`` and their ratios to those of ``baseline`` on ``device``.

    A deterministic device computes them at once. On other devices, both models run one batch of
    random images, in blocks of some tens of milliseconds. Blocks of candidate and baseline
    alternate, and each pair of blocks gives a ratio. The result is the median ratio with a 95 %
    interval for the median of later measurements (``timing.ratio_interval``).

    A measurement has several sittings. Each opens both models again, if that is quick,
    because the placement of memory is one cause of variation. The machine lock is held exclusively
    for one or more sittings at a time, because each time that it is taken, all trainings pause.

    A measurement takes about ``seconds``. Slow models take longer, because each of the 6 or more
    sittings has at least one pair of blocks. After the first sitting, another one only begins if it
    will end within ``PATIENCE`` times ``seconds`` (at least 1 s). Waiting for other measurements
    and trainings is not included.

    Raises:
        TrialFailed: if the device cannot load one of the models, or cannot tell its cost, or gives
            something that is no cost (NaN, infinity, 0).
    """
    found = _measured(device, candidate, baseline, config, seconds)
    if fault := fault_of(found, device):
        raise TrialFailed(f"device '{device.name}' {fault}")
    return found


def run_once(device: Device, deployable: Deployable, config: DeviceConfig) -> None:
    """Opens a model on a device and runs it once, or computes its costs, without the machine lock.

    The caller holds that lock shared if other processes may measure meanwhile.

    Raises:
        Exception: as :func:`measure`, if the device fails.
    """
    if device.deterministic:
        measure(device, deployable, deployable, config)
        return
    _convert(device, [deployable])
    device.prepare(deployable, _images(deployable, config), config)
    device.is_in_thread(config)
    device.environment(config)
    both = deployable, deployable
    if device.is_local or device.time_elsewhere(*both, config, 0.1, 1) is None:
        _opened(device, deployable, config)


def fault_of(found: object, device: Device) -> str:
    """What is wrong with the measurement ``found``: the end of a sentence; empty if it is valid.

    Latencies and their ratios must be finite and above 0 if ``device`` measures latency, and so
    must its energy if it measures energy.
    """
    if not isinstance(found, Measurement):
        return f"gave {type(found).__name__} instead of a Measurement: compare must return a Measurement"
    figures: dict[str, Any] = {}
    if "latency" in device.measures:
        figures = {
            "the latency": found.latency_ms,
            "the latency of the baseline": found.baseline_ms,
            "the ratio of latencies": found.latency_ratio,
            "the lower end of the ratio": found.ratio_low,
            "the upper end of the ratio": found.ratio_high,
        }
    if "energy" in device.measures:
        figures["the energy"] = found.energy_uj
    for what, figure in figures.items():
        if figure is None:
            return f"gave no value for {what}, which it measures"
        if not isinstance(figure, int | float):
            return f"gave {type(figure).__name__} for {what}, which must be a float"
        if not (math.isfinite(figure) and figure > 0):
            return f"gave {figure:g} for {what}"
    return ""


def _measured(
    device: Device, candidate: Deployable, baseline: Deployable, config: DeviceConfig, seconds: float
) -> Measurement:
    """The measurement, as the device or the blocks give it."""
    if device.deterministic:
        return device.compare(candidate, baseline, config)
    _prepare(device, [candidate, baseline], config)
    clock: Clock = time.thread_time if device.is_in_thread(config) else time.perf_counter
    count = max(SITTINGS, math.ceil(seconds / EXCLUSIVE_SECONDS))
    if not device.is_local and (elsewhere := device.time_elsewhere(candidate, baseline, config, seconds, count)):
        return _measurement([Pairs(list(own), list(other)) for own, other in elsewhere], device, config, clock)
    most = PATIENCE * max(seconds, 1.0)
    sittings = _Sittings(device, candidate, baseline, config, clock, count, seconds / count, most)
    while sittings.is_another_due:
        with locked(device, "exclusive"):
            sittings.sit()
    return _measurement(sittings.done, device, config, clock)


@dataclass
class _Sittings:
    """The sittings of a measurement on this machine.

    Attributes:
        device, candidate, baseline, config: as for :func:`measure`.
        clock: clock for timing blocks.
        count: number of sittings.
        share: seconds of one.
        most: maximum seconds of all; no further sitting begins that would probably end later.
        done: blocks of the finished ones.
    """

    device: Device
    candidate: Deployable
    baseline: Deployable
    config: DeviceConfig
    clock: Clock
    count: int
    share: float
    most: float
    done: list[Pairs] = field(default_factory=list)
    _both: _Both | None = None
    _spent: float = 0.0
    _longest: float = 0.0

    @property
    def is_another_due(self) -> bool:
        """Whether there are fewer than ``count`` and there is time for another."""
        if self._both is None:
            return True
        is_quick = self._both.first_run <= self.most
        return is_quick and len(self.done) < self.count and self._spent + self._longest <= self.most

    def sit(self) -> None:
        """Sits once, and again while another is due and ``EXCLUSIVE_SECONDS`` allow it."""
        end = time.perf_counter() + EXCLUSIVE_SECONDS
        self._sit()
        while self.is_another_due and time.perf_counter() + self._longest <= end:
            self._sit()

    def _sit(self) -> None:
        began, turn = time.perf_counter(), len(self.done) % 2
        both = self._opened(turn)
        if both.first_run > self.most:
            self.done.append(Pairs([both.first_run], [block(both.run_baseline, self.clock)]))
            return
        pairs = Pairs(turn=turn)
        left = self.share - (time.perf_counter() - began)
        time_pairs(both.run_candidate, both.run_baseline, pairs, max(left, self.share / 2), self.clock)
        self.done.append(pairs)
        taken = time.perf_counter() - began
        self._spent, self._longest = self._spent + taken, max(self._longest, taken)

    def _opened(self, turn: int) -> _Both:
        """Both models; opened again if that takes no longer than a sitting should."""
        if self._both is None or self._both.opened_in <= self.share:
            self._both = None  # the old models are freed first, so that memory is not needed twice
            self._both = _Both(self.device, self.candidate, self.baseline, self.config, turn)
        return self._both


def layer_times(
    device: Device, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
) -> list[LayerTimes] | None:
    """:meth:`Device.layer_times`, while this process holds the lock of the machine."""
    _prepare(device, deployables, config)
    with locked(device, "exclusive"):
        return device.layer_times(deployables, layers, config)


def _prepare(device: Device, deployables: Sequence[Deployable], config: DeviceConfig) -> None:
    """Converts models and prepares the device, before the lock is taken alone.

    The lock is shared meanwhile, because a device that prepares models loads the machine.
    """
    _convert(device, deployables)
    if type(device).prepare is Device.prepare:
        return
    with locked(device, "shared"):
        for deployable in deployables:
            device.prepare(deployable, _images(deployable, config), config)


def _convert(device: Device, deployables: Sequence[Deployable]) -> None:
    for deployable in deployables:
        for wanted in device.formats:
            deployable.convert(wanted)


@contextmanager
def locked(device: Device, kind: Kind) -> Iterator[None]:
    """Holds the lock of the machine if the device runs on this machine."""
    if not device.is_local:
        yield
        return
    lock = MachineLock()
    try:
        with lock.shared() if kind == "shared" else lock.exclusive():
            yield
    finally:
        lock.close()


class _Both:
    """Candidate and baseline, opened for one sitting, each run once.

    ``turn`` decides which is opened first (0: the candidate, 1: the baseline). The position in
    memory depends on this order, and the model that was opened first was up to 2 % slower.
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
    """A function that runs one batch, after its first run, and the seconds of that first run."""
    run = device.open(deployable, _images(deployable, config), config)
    started = time.perf_counter()
    run()  # the first run allocates
    return run, time.perf_counter() - started


def _images(deployable: Deployable, config: DeviceConfig) -> np.ndarray:
    """A batch of random images."""
    channels, height, width = deployable.input_size
    if config.input_size is not None:
        height = width = config.input_size
    shape = (config.batch, channels, height, width)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _measurement(sittings: Sequence[Pairs], device: Device, config: DeviceConfig, clock: Clock) -> Measurement:
    times = (value for pairs in sittings for value in (*pairs.first, *pairs.second))
    if (wrong := next((value for value in times if not (math.isfinite(value) and value > 0)), None)) is not None:
        raise TrialFailed(f"device '{device.name}' gave {wrong:g} for the latency")
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

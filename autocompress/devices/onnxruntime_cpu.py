"""The default device: the exported file in ONNX Runtime on this machine's processor."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from autocompress.contract import Deployable, Device, LayerTimes, Measurement
from autocompress.devices import sessions
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
from autocompress.processors import usable_processors
from autocompress.runtime import runtime_version, session_config

WIDEST_INTERVAL = 0.1
"""Of the ratio; a measurement whose interval is wider is called noisy."""

PATIENCE = 5.0
"""Times the seconds asked for: a file so slow that its runs take longer is measured with fewer pairs, and called noisy.
One whose first run alone takes longer is not run again."""

SITTINGS = 6
"""Parts of a measurement, at least: each opens both files anew and gives others their turn before it."""


class OnnxRuntimeCpu(Device):
    """Latency of a file against the baseline's, in sessions with a fixed number of threads.

    Blocks of some tens of milliseconds, candidate and baseline in turn, give one ratio a pair; the measurement is their
    median with a 95 % interval for the median of later measurements (``timing.ratio_interval``). It consists of several
    sittings, each with new sessions of both files where opening them is quick, since the placement of memory is part
    of what varies. A sitting has the machine for itself (see ``lock``).
    """

    name: ClassVar[str] = "onnxruntime-cpu"

    def __init__(self) -> None:
        self._lock: MachineLock | None = None

    def check(self, config: DeviceConfig) -> list[str]:
        """More threads than processors would measure the scheduler."""
        if config.threads > (processors := usable_processors()):
            return [f"{config.threads} threads are asked for, but this process has {processors} processors"]
        return []

    def measure(
        self, candidate: Deployable, baseline: Deployable, config: DeviceConfig, *, seconds: float = 2.0
    ) -> Measurement:
        """Latency of one batch of random images, candidate and baseline interleaved.

        Sessions of one thread are timed by the time that it was on a processor: that is the latency of a machine that
        does nothing else, also on one that does.

        It takes about ``seconds``, more where that is too short for an interval (fewer than 6 pairs of blocks) but no
        more than ``PATIENCE`` times that and a run, and the time that other measurements and trainings need to step
        aside between two sittings.

        Raises:
            TrialFailed: if ONNX Runtime cannot load one of the files.
        """
        count = max(SITTINGS, math.ceil(seconds / EXCLUSIVE_SECONDS))
        share, most = seconds / count, PATIENCE * max(seconds, 1.0)
        clock = time.thread_time if config.threads == 1 else time.perf_counter
        sittings: list[Pairs] = []
        both: _Both | None = None
        spent = longest = 0.0
        while len(sittings) < count and (not sittings or spent + longest <= most):
            with self._machine_lock().exclusive():
                began = time.perf_counter()
                if both is None or both.opened_in <= share:
                    both = None  # the old sessions go first, so that memory is not needed twice
                    both = _Both(candidate, baseline, config, turn=len(sittings) % 2)
                if both.first_run > most:
                    sittings.append(Pairs([both.first_run], [block(both.run_baseline, clock)]))
                    break
                pairs = Pairs(turn=len(sittings) % 2)
                left = share - (time.perf_counter() - began)
                time_pairs(both.run_candidate, both.run_baseline, pairs, max(left, share / 2), clock)
                sittings.append(pairs)
                taken = time.perf_counter() - began
            spent, longest = spent + taken, max(longest, taken)
        return _measurement(sittings, config, clock)

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes]:
        """By ONNX Runtime's profiler, in some tenths of a second a file, with nothing beside it on this machine."""
        from autocompress.devices.profiling import layer_times  # imports onnx; listing devices does not need it

        size = deployables[0].input_size
        if config.input_size is not None:
            size = (size[0], config.input_size, config.input_size)
        files = [deployable.file for deployable in deployables]
        with self._machine_lock().exclusive():
            return layer_times(files, layers, size, threads=config.threads, batch=config.batch)

    def _machine_lock(self) -> MachineLock:
        if self._lock is None or self._lock.closed:  # closed: this is a forked child
            self._lock = MachineLock()
        return self._lock


class _Both:
    """New sessions of candidate and baseline, each run once.

    The one that is opened first (``turn`` 0: the candidate, 1: the baseline) has other memory, and was up to 2 %
    slower.
    """

    def __init__(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig, turn: int) -> None:
        began = time.perf_counter()
        if turn:
            self.run_baseline, _ = _runner(baseline, config)
        self.run_candidate, self.first_run = _runner(candidate, config)
        if not turn:
            self.run_baseline, _ = _runner(baseline, config)
        self.opened_in = time.perf_counter() - began


def _runner(deployable: Deployable, config: DeviceConfig) -> tuple[Callable[[], None], float]:
    """A function that runs one batch in a new session, after it has run once, and how many seconds that took."""
    loaded = sessions.load(deployable.file, config.threads)
    channels, height, width = deployable.input_size
    if config.input_size is not None:
        height = width = config.input_size
    shape = sessions.input_shape(loaded, config.batch, (channels, height, width))
    feed = {loaded.get_inputs()[0].name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    started = time.perf_counter()
    loaded.run(None, feed)  # the first run allocates
    first = time.perf_counter() - started

    def run() -> None:
        loaded.run(None, feed)

    return run, first


def _measurement(sittings: Sequence[Pairs], config: DeviceConfig, clock: Clock) -> Measurement:
    ratio, low, high = ratio_interval([pairs.ratios for pairs in sittings])
    blocks = sum(len(pairs.first) for pairs in sittings)
    timed = "processor time of the thread" if clock is time.thread_time else "wall time"
    return Measurement(
        latency_ms=1e3 * statistics.median(value for pairs in sittings for value in pairs.first),
        latency_ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        baseline_ms=1e3 * statistics.median(value for pairs in sittings for value in pairs.second),
        noisy=high - low > WIDEST_INTERVAL * ratio or blocks < FEWEST_PAIRS or len(sittings) < FEWEST_SITTINGS,
        environment={**environment(config), "clock": timed, "sittings": len(sittings), "pairs": blocks},
    )


def environment(config: DeviceConfig) -> dict[str, Any]:
    """Machine, threads, batch, runtime version and the session options in force."""
    return {
        **machine(),
        "threads": config.threads,
        "batch": config.batch,
        "runtime": runtime_version(),
        "session_options": {
            "provider": "CPUExecutionProvider",
            "execution_mode": "sequential",
            "inter_op_threads": 1,
            "graph_optimization": "all",
            **session_config(),
        },
    }

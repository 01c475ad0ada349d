"""The default device: the exported file in ONNX Runtime on this machine's processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from autocompress.contract import Deployable, Device, Measurement
from autocompress.devices import sessions
from autocompress.devices.lock import EXCLUSIVE_SECONDS, MachineLock
from autocompress.devices.machine import machine
from autocompress.devices.timing import FEWEST_PAIRS, Pairs, block, median_interval, time_pairs
from autocompress.job import DeviceConfig
from autocompress.processors import usable_processors
from autocompress.runtime import runtime_version, session_config

WIDEST_INTERVAL = 0.1
"""Of the ratio; a measurement whose interval is wider is called noisy."""

PATIENCE = 5.0
"""Times the seconds asked for: a file so slow that its runs take longer is measured with fewer pairs, and called noisy.
One whose first run alone takes longer is not run again."""

PREDICT_BATCH = 64


class OnnxRuntimeCpu(Device):
    """Latency of a file against the baseline's, in sessions with a fixed number of threads.

    Blocks of some tens of milliseconds, candidate and baseline in turn, give one ratio a pair; the measurement is their
    median with a 95 % interval. A measurement has the machine for itself (see ``lock``), for 2 s at a time.
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

        It takes about ``seconds``, more where that is too short for an interval (fewer than 6 pairs of blocks) but no
        more than ``PATIENCE`` times that and a run, and the time that other measurements and trainings need to step
        aside.

        Raises:
            TrialFailed: if ONNX Runtime cannot load one of the files.
        """
        run_baseline, _ = self._runner(baseline, config)
        run_candidate, first = self._runner(candidate, config)
        pairs = Pairs()
        left, spent, most = seconds, 0.0, PATIENCE * max(seconds, 1.0)
        if first > most:
            with self._machine_lock().exclusive():
                pairs.first.append(first)
                pairs.second.append(block(run_baseline))
            left = 0.0
        while left > 0 or (len(pairs.first) < FEWEST_PAIRS and first + spent <= most):
            # Other measurements and trainings get their turn between two slices.
            portion = min(max(left, 0.1), EXCLUSIVE_SECONDS)
            with self._machine_lock().exclusive():
                began = time.perf_counter()
                time_pairs(run_candidate, run_baseline, pairs, portion)
                taken = time.perf_counter() - began
            left -= max(portion, taken)
            spent += taken
        ratio, low, high = median_interval(pairs.ratios)
        return Measurement(
            latency_ms=1e3 * median_interval(pairs.first)[0],
            latency_ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            baseline_ms=1e3 * median_interval(pairs.second)[0],
            noisy=high - low > WIDEST_INTERVAL * ratio or len(pairs.first) < FEWEST_PAIRS,
            environment={**environment(config), "pairs": len(pairs.first)},
        )

    def predict(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> np.ndarray:
        """Logits of ``images`` in batches of 64, or of the file's own size where that is fixed.

        Takes no lock: who scores holds the machine's lock shared, and asks for few images at a time.

        Raises:
            TrialFailed: if ONNX Runtime cannot load the file.
        """
        loaded = sessions.session(deployable.file, config.threads)
        batch = sessions.input_shape(loaded, PREDICT_BATCH, deployable.input_size)[0]
        logits = []
        for start in range(0, len(images), batch):
            part = np.ascontiguousarray(images[start : start + batch], dtype=np.float32)
            missing = batch - len(part) if isinstance(loaded.get_inputs()[0].shape[0], int) else 0
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
            logits.append(sessions.run(loaded, padded)[: len(part)])
        if not logits:
            return np.zeros((0, loaded.get_outputs()[0].shape[-1]), np.float32)
        return np.concatenate(logits).astype(np.float32, copy=False)

    def _runner(self, deployable: Deployable, config: DeviceConfig) -> tuple[Callable[[], None], float]:
        """A function that runs one batch, after it has run once, and how many seconds that took."""
        loaded = sessions.session(deployable.file, config.threads)
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

    def _machine_lock(self) -> MachineLock:
        if self._lock is None or self._lock.closed:  # closed: this is a forked child
            self._lock = MachineLock()
        return self._lock


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

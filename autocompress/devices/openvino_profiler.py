"""Times of layers in OpenVINO, by its own counters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from autocompress.devices.constants import with_constants
from autocompress.devices.openvino_cpu import CompiledRunner
from autocompress.devices.profiling import MARK, Run, charged
from autocompress.job import DeviceConfig

CHUNK = 8
"""Runs between two readings of the counters, which are means of all runs in whole microseconds."""
CHUNKS = 6
FASTEST = 0.34
"""The share of the chunks of an operator that is used: the fastest, least disturbed ones."""


class OpenVinoProfiler:
    """Runs and profiles files for ``profiling.layer_times``.

    Args:
        config: settings of the runs.
        layers: names of the layers.
    """

    def __init__(self, config: DeviceConfig, layers: Collection[str]) -> None:
        self._config, self._layers = config, frozenset(layers)

    def runner(self, file: bytes, run: Run) -> Callable[[], object]:
        """A compiled model."""
        runner = self._opened(file, run)
        runner()  # the first run compiles kernels
        return runner

    def profiled(self, files: Sequence[bytes], run: Run, seconds: float) -> list[dict[str, float]]:
        """Seconds of each layer of each file, from compiled models with counters."""
        del seconds  # the counters decide how many runs are needed
        runners = [self._opened(file, run, counts=True) for file in files]
        for runner in runners:
            runner()
        before = [runner.nodes() for runner in runners]
        chunks: list[list[tuple[str, float]]] = [[] for _ in runners]
        for _ in range(CHUNKS):
            for place, runner in enumerate(runners):
                earlier = runner.runs
                for _ in range(CHUNK):
                    runner()
                now = runner.nodes()
                chunks[place] += _between(before[place], now, earlier, runner.runs)
                before[place] = now
        return [charged([(self._known(name), t) for name, t in own], CHUNKS, FASTEST) for own in chunks]

    def _known(self, name: str) -> str:
        """The name of an operator; empty if it does not begin with the name of a layer.

        OpenVINO names operators that change a layout after their input and their reader.
        """
        return name if name.partition(MARK)[0] in self._layers else ""

    def _opened(self, file: bytes, run: Run, *, counts: bool = False) -> CompiledRunner:
        images = np.random.default_rng(0).standard_normal((run.batch, *run.input_size), dtype=np.float32)
        return CompiledRunner(with_constants(file), images, self._config, counts=counts)


def _between(
    before: Sequence[tuple[str, float]], now: Sequence[tuple[str, float]], earlier: int, runs: int
) -> list[tuple[str, float]]:
    """Seconds of each operator in the runs between two readings, from the means of all runs."""
    return [
        (name, max(mean * runs - was * earlier, 0.0) / (runs - earlier))
        for (_, was), (name, mean) in zip(before, now, strict=True)
    ]

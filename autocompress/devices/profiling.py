"""Seconds of each layer by the runtime's profiler, and of whole runs relative to a reference.

The reference makes times of different moments comparable on a busy machine.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime

from autocompress.contract import LayerTimes
from autocompress.devices import sessions
from autocompress.devices.timing import Pairs, time_pairs
from autocompress.errors import TrialFailed
from autocompress.runtime import session_options

FEWEST_RUNS = 8
RUNS_A_TURN = 4
SITTINGS = 2
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
MARK = "@"
"""Separates the name of a layer from endings that the runtime adds to the name of a node."""
FASTEST = 0.5
"""The share of the runs of a node that is used: the fastest, least disturbed ones."""


@dataclass
class _Sitting:
    """Seconds of a file and of the reference: of a run, and of each layer with the profiler."""

    ratio: float
    reference: float
    layers: dict[str, float]
    profiled_reference: float


@dataclass(frozen=True)
class Run:
    """Settings of the runs.

    Attributes:
        input_size: (channels, height, width) where a file leaves them open.
        threads, batch: number of threads, and images per run.
    """

    input_size: tuple[int, int, int]
    threads: int
    batch: int


class Profiler(Protocol):
    """A runtime that runs files and measures the time of their layers."""

    def runner(self, file: bytes, run: Run) -> Callable[[], object]:
        """A function that runs one batch of random images once."""

    def profiled(self, files: Sequence[bytes], run: Run, seconds: float) -> list[dict[str, float]]:
        """Seconds of each layer of each file, with the profiler on; runs of the files alternate.

        Nodes are named ``<layer>MARK...``. Each file runs for about ``seconds``.
        """


class OnnxRuntimeProfiler:
    """ONNX Runtime's own profiler."""

    def runner(self, file: bytes, run: Run) -> Callable[[], object]:
        """Returns a function that runs ``file`` once."""
        return _opened(file, run)

    def profiled(self, files: Sequence[bytes], run: Run, seconds: float) -> list[dict[str, float]]:
        """Seconds of each layer, from sessions that write a profile each."""
        return _profiled(files, run, seconds)


def layer_times(
    files: Sequence[Path],
    layers: Collection[str],
    input_size: tuple[int, int, int],
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 0.3,
    profiler: Profiler | None = None,
) -> list[LayerTimes]:
    """Profiles files that :func:`autocompress.export.export` wrote.

    Files alternate in several sittings, each with new sessions. In a sitting, a file and the first
    one, the reference, alternate, without the profiler and then with it. The result is the median
    of the ratios to the reference, because the speed of a busy machine changes by half within
    seconds.

    Args:
        files: ONNX files.
        layers: names of the layers; a node belongs to the layer whose weight it reads.
        input_size: (channels, height, width) where the files leave them open.
        threads, batch: number of threads, and images per run.
        seconds: approximate time for each file.
        profiler: profiler of the runtime; ONNX Runtime's by default.

    Raises:
        TrialFailed: if the runtime cannot load a file, or no node of it belongs to a layer.
    """
    run, runtime = Run(input_size, threads, batch), profiler or OnnxRuntimeProfiler()
    named = {file: named_bytes(file, layers) for file in dict.fromkeys(files)}
    sittings = [_sit(named, files[0], run, seconds / SITTINGS, runtime) for _ in range(SITTINGS)]
    every = [one for sitting in sittings for one in sitting.values()]
    quiet = min(one.reference for one in every)
    slower = min(one.profiled_reference for one in every) / min(one.reference for one in every)
    return [_summary([sitting[file] for sitting in sittings], quiet, quiet * slower) for file in files]


def _sit(
    files: Mapping[Path, bytes], reference: Path, run: Run, seconds: float, runtime: Profiler
) -> dict[Path, _Sitting]:
    """Runs each file and the reference, which is one of them.

    Opening a session takes longer than the runs, so the reference is opened once for all files.
    """
    clock = time.thread_time if run.threads == 1 else time.perf_counter
    beside = runtime.runner(files[reference], run)
    others = [file for file in files if file != reference] or [reference]
    timed = {file: Pairs() for file in others}
    for file, pairs in timed.items():
        time_pairs(runtime.runner(files[file], run), beside, pairs, seconds / 2, clock)
    profiles = dict(zip(files, runtime.profiled(list(files.values()), run, seconds / 2), strict=True))
    whole = sum(profiles[reference].values())
    found = {
        file: _Sitting(statistics.median(pairs.ratios), statistics.median(pairs.second), profiles[file], whole)
        for file, pairs in timed.items()
    }
    found[reference] = _Sitting(1.0, min(own.reference for own in found.values()), profiles[reference], whole)
    return found


def _summary(sittings: Sequence[_Sitting], reference: float, profiled: float) -> LayerTimes:
    """Ratios to the reference, multiplied by its seconds without and with the profiler."""
    layers = {
        name: statistics.median(sitting.layers[name] / sitting.profiled_reference for sitting in sittings) * profiled
        for name in sittings[0].layers
    }
    return LayerTimes(layers, statistics.median(sitting.ratio for sitting in sittings) * reference)


def _opened(file: bytes, run: Run, profile: Path | None = None) -> _Runner:
    options = session_options(run.threads)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        reason = str(error).strip().splitlines()[0]
        raise TrialFailed(f"ONNX Runtime {onnxruntime.__version__} cannot load a file: {reason}") from error
    return _Runner(session, sessions.input_shape(session, run.batch, run.input_size))


class _Runner:
    """A session that runs one batch of random images when it is called."""

    def __init__(self, session: onnxruntime.InferenceSession, shape: tuple[int, ...]) -> None:
        self.session, self.runs = session, 0
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._feed = {session.get_inputs()[0].name: images}

    def __call__(self) -> None:
        self.session.run(None, self._feed)
        self.runs += 1


def _profiled(files: Sequence[bytes], run: Run, seconds: float) -> list[dict[str, float]]:
    """Seconds of each layer of each file, from runs in turn with the profiler.

    Each file runs for about ``seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        runners = [_opened(file, run, Path(folder) / str(place)) for place, file in enumerate(files)]
        end = time.perf_counter() + seconds * len(runners)
        while runners[0].runs < FEWEST_RUNS or time.perf_counter() < end:
            for runner in runners:
                for _ in range(RUNS_A_TURN):
                    runner()
        texts = [Path(runner.session.end_profiling()).read_text(encoding="utf-8") for runner in runners]
    return [_by_layer(json.loads(text), runner.runs) for text, runner in zip(texts, runners, strict=True)]


def _by_layer(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, float]:
    """:func:`charged` for the events of a profile."""
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return charged([(str(kernel["name"]), kernel["dur"] * 1e-6) for kernel in kernels], runs)


def charged(nodes: Sequence[tuple[str, float]], runs: int, fastest: float = FASTEST) -> dict[str, float]:
    """Mean seconds of each layer over the faster runs of each node.

    Args:
        nodes: (name, seconds) of every node in every run, run after run.
        runs: number of runs.
        fastest: the share of the runs of a node that is used, the fastest ones.

    Raises:
        TrialFailed: if the runs differ in their nodes.
    """
    each = len(nodes) // runs
    if each * runs != len(nodes):
        raise TrialFailed("the profile of a file does not hold the same operators in every run")
    found: dict[str, float] = {}
    current, early = "", 0.0
    for place in range(each):
        durations = sorted(seconds for _, seconds in nodes[place::each])
        mean = statistics.fmean(durations[: max(1, round(len(durations) * fastest))])
        name, is_layer, _ = nodes[place][0].partition(MARK)
        if is_layer:
            current = name
        if current:
            found[current] = found.get(current, 0.0) + mean + early
            early = 0.0
        else:
            early += mean  # nodes before the first layer are charged to it
    return found


def named_bytes(file: Path, layers: Collection[str]) -> bytes:
    """The file with every node named after the layer that it is charged to (:func:`charged`).

    Raises:
        TrialFailed: if no node belongs to a layer.
    """
    return _named(file, layers).SerializeToString()


def _named(file: Path, layers: Collection[str]) -> onnx.ModelProto:
    """The file with nodes and their outputs named after the layer to which they are charged.

    The runtime names fused nodes after a node or after an output.

    Raises:
        TrialFailed: if no node belongs to a layer.
    """
    proto = onnx.load(str(file))
    graph = proto.graph
    owners = _owners(graph, set(layers))
    if not owners:
        raise TrialFailed(f"no operator of '{file}' belongs to a layer")
    renamed: dict[str, str] = {}
    for place, node in enumerate(graph.node):
        node.name = f"{owners[place]}{MARK}{place}" if place in owners else ""
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for number, name in enumerate(node.output):
            if place in owners:
                renamed[name] = node.output[number] = f"{owners[place]}{MARK}{place}/{number}"
    for value in graph.output:
        value.name = renamed.get(value.name, value.name)
    return proto


def _owners(graph: onnx.GraphProto, layers: set[str]) -> dict[int, str]:
    """For each node by position: the layer whose weight it reads, else the last layer before it."""
    producers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    initializers = {tensor.name for tensor in graph.initializer}
    owners: dict[int, str] = {}
    order: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        layer = _layer_read(graph, node, producers, initializers) if node.op_type in LAYERS else ""
        if layer in layers:
            owners[place] = layer
            order.setdefault(layer, len(order))
            continue
        before = [owners[at] for name in node.input if (at := producers.get(name, -1)) in owners]
        if before:
            owners[place] = max(before, key=lambda layer: order[layer])
    return owners


def _layer_read(
    graph: onnx.GraphProto, node: onnx.NodeProto, producers: Mapping[str, int], initializers: set[str]
) -> str:
    """The layer whose weight a node multiplies; empty if it multiplies no weight."""
    source = node.input[1]
    while source not in initializers and source in producers and graph.node[producers[source]].input:
        source = graph.node[producers[source]].input[0]
    return source.split("/")[0].removesuffix(".weight") if source in initializers else ""

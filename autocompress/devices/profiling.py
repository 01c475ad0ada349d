"""Where a file's time goes: seconds of each layer, by the runtime's own profiler."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from autocompress.contract import LayerTimes
from autocompress.devices import sessions
from autocompress.devices.timing import Clock, block
from autocompress.errors import TrialFailed
from autocompress.runtime import session_options

FEWEST_RUNS = 8
WARM_UP_RUNS = 3
SITTINGS = 3
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
MARK = "@"
"""Ends a layer's name in the name of its node; the runtime appends its own endings."""
FASTEST = 0.5
"""Share of the runs of a node that count: in the others something else ran too."""


def layer_times(
    file: Path,
    layers: Collection[str],
    input_size: tuple[int, int, int],
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 0.3,
) -> LayerTimes:
    """Profiles a file that :func:`autocompress.export.export` wrote.

    Args:
        file: ONNX file.
        layers: names of the layers; a node belongs to the layer whose weight it reads.
        input_size: (channels, height, width) where the file leaves them open.
        threads, batch: of a run.
        seconds: about so long it runs. It does so in sittings with sessions of their own, of which each figure is the
            smallest: a busy machine only ever adds to a time.

    Raises:
        TrialFailed: if the runtime cannot load the file, or no node of it belongs to a layer.
    """
    proto = onnx.load(str(file))
    if not _name_nodes(proto.graph, set(layers)):
        raise TrialFailed(f"no operator of '{file}' belongs to a layer")
    clock = time.thread_time if threads == 1 else time.perf_counter
    share = seconds / (2 * SITTINGS)
    found: dict[str, float] = {}
    total = math.inf
    for _ in range(SITTINGS):
        plain = sessions.load(file, threads)
        shape = sessions.input_shape(plain, batch, input_size)
        feed = {plain.get_inputs()[0].name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
        total = min(total, _total(plain, feed, share, clock))
        for name, time_of_layer in _profiled(proto, threads, feed, share).items():
            found[name] = min(found.get(name, math.inf), time_of_layer)
    return LayerTimes(found, total)


def _total(
    session: onnxruntime.InferenceSession, feed: Mapping[str, np.ndarray], seconds: float, clock: Clock
) -> float:
    end = time.perf_counter() + seconds
    blocks: list[float] = []
    while not blocks or time.perf_counter() < end:
        blocks.append(block(lambda: session.run(None, feed), clock))
    return min(blocks)


def _profiled(proto: onnx.ModelProto, threads: int, feed: Mapping[str, np.ndarray], seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        end, runs = time.perf_counter() + seconds, 0
        while runs < FEWEST_RUNS + WARM_UP_RUNS or time.perf_counter() < end:
            session.run(None, feed)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    each = len(kernels) // runs
    if each * runs != len(kernels):
        raise TrialFailed("the profile of the file does not hold the same operators in every run")
    found: dict[str, float] = {}
    current, early = "", 0.0
    for place in range(each):
        durations = sorted(kernel["dur"] for kernel in kernels[place::each][WARM_UP_RUNS:])
        mean = statistics.fmean(durations[: max(1, round(len(durations) * FASTEST))]) * 1e-6
        name, is_layer, _ = kernels[place]["name"].partition(MARK)
        if is_layer:
            current = name
        if current:
            found[current] = found.get(current, 0.0) + mean + early
            early = 0.0
        else:
            early += mean  # in front of the first layer: charged to it
    return found


def _name_nodes(graph: onnx.GraphProto, layers: set[str]) -> int:
    """Gives the node of each layer its name; returns how many were found."""
    producers = {name: node for node in graph.node for name in node.output}
    initializers = {tensor.name for tensor in graph.initializer}
    found = 0
    for node in graph.node:
        node.name = ""
        if node.op_type not in LAYERS:
            continue
        source = node.input[1]
        while source not in initializers and source in producers and producers[source].input:
            source = producers[source].input[0]
        layer = source.split("/")[0].removesuffix(".weight")
        if layer in layers:
            node.name = f"{layer}{MARK}"
            found += 1
    return found

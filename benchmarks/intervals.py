"""How often the interval of a latency ratio contains the median of later measurements.

Several structures (int8 and float files of several backbones, against the float file) are measured
in rounds, each as long as in a search. A case is a measurement whose 95 % interval contains, or
does not contain, the median of the ``--later`` measurements after it. These have new sessions, and
come up to some minutes later. There is a table for each ``--busy`` number of processes that keep
the processors busy meanwhile.

    python benchmarks/intervals.py [--models resnet18 ...] [--sizes 32 128] [--rounds 8] [--busy 0
    4] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from autocompress.contract import Deployable, Measurement
from autocompress.devices import OnnxRuntimeCpu, measure
from autocompress.devices.machine import machine
from autocompress.files import write_json
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version
from int8 import files

TARGET = 0.9
"""Target for the share of intervals that contain the median of later measurements."""
BUSY = "import itertools, numpy\nx = numpy.ones((400, 400))\nfor _ in itertools.count(): x @ x / 400"

Structures = dict[str, tuple[Deployable, Deployable]]


def structures(models: Sequence[str], sizes: Sequence[int], folder: Path) -> Structures:
    """(file, its reference) by name.

    Int8 and a copy of the float file, with the float file as reference.
    """
    found: Structures = {}
    for name, size in itertools.product(models, sizes):
        place = folder / f"{name}-{size}"
        place.mkdir()
        made = {kind: Deployable(file, (3, size, size)) for kind, file in files(name, size, place).items()}
        found[f"{name}, {size} pixels, int8"] = made["int8"], made["fp32"]
        copy = place / "copy.onnx"
        copy.write_bytes(made["fp32"].file.read_bytes())
        found[f"{name}, {size} pixels, itself"] = Deployable(copy, (3, size, size)), made["fp32"]
    return found


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps ``count`` processes computing inside the block."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure_rounds(chosen: Structures, rounds: int, seconds: float) -> dict[str, list[tuple[Measurement, float]]]:
    """(measurement, its seconds) of each round, by structure."""
    device, config = OnnxRuntimeCpu(), DeviceConfig()
    found: dict[str, list[tuple[Measurement, float]]] = {name: [] for name in chosen}
    for _, (name, (file, reference)) in itertools.product(range(rounds), chosen.items()):
        began = time.perf_counter()
        measured = measure(device, file, reference, config, seconds=seconds)
        found[name].append((measured, time.perf_counter() - began))
    return found


def cases(name: str, rows: Sequence[tuple[Measurement, float]], later: int) -> list[dict[str, Any]]:
    """Each measurement with ``later`` following ones, and their median."""
    found = []
    for first, (measured, took) in enumerate(rows[:-later]):
        truth = statistics.median(other.latency_ratio for other, _ in rows[first + 1 : first + 1 + later])
        low, high = measured.ratio_low, measured.ratio_high
        case = {"structure": name, "ratio": measured.latency_ratio, "low": low, "high": high, "later": truth}
        found.append({**case, "held": low <= truth <= high, "noisy": measured.noisy, "seconds": took})
    return found


def table(chosen: Structures, processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Coverage with this number of busy processes."""
    with busy(processes):
        rounds = measure_rounds(chosen, arguments.rounds, arguments.seconds)
        load = psutil.getloadavg()[0]
    rows = [case for name, measured in rounds.items() for case in cases(name, measured, arguments.later)]
    held = sum(row["held"] for row in rows)
    return {
        "busy_processes": processes,
        "load": load,
        "cases": len(rows),
        "held": held,
        "coverage": held / len(rows),
        "median_width": statistics.median((row["high"] - row["low"]) / row["ratio"] for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
        "met": held / len(rows) >= TARGET,
        "rows": rows,
    }


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenetv3_small_050"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--later", type=int, default=5, help="number of later measurements for each comparison")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of a measurement")
    parser.add_argument(
        "--busy", type=int, nargs="+", default=[0, 4], help="numbers of processes that keep the machine busy"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/intervals.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        chosen = structures(arguments.models, arguments.sizes, Path(folder))
        tables = [table(chosen, processes, arguments) for processes in arguments.busy]
    for one in tables:
        print(
            f"{one['busy_processes']} busy processes, load {one['load']:.1f}: {one['held']} of {one['cases']} intervals"
            f" hold the median of later measurements (target {TARGET:.0%}), width {one['median_width']:.1%},"
            f" {one['median_seconds']:.1f} s a measurement"
        )
    environment = {**machine(), "runtime": runtime_version()}
    write_json(arguments.out, {"target": TARGET, "environment": environment, "tables": tables})


if __name__ == "__main__":
    main()

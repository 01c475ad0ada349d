"""Runs the demo as a new user would, and reports its time, memory and front.

The search runs in a process of its own with an empty cache folder, so the baseline is trained too.
Memory is the sum of the proportional set sizes (PSS: a shared page counts once in all) of that
process and everything it started, Ray's workers included, sampled each second.

    python benchmarks/demo.py [--job search_spaces/demo.yaml] [--trials N] [--out FILE] [--keep
    FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from autocompress import results
from autocompress.files import write_json

TARGETS = {"seconds": 360, "peak_gb": 6, "latency_ratio": 0.5, "test_accuracy_drop": 1.0}
JOB = Path(__file__).parent.parent / "search_spaces" / "demo.yaml"
KEPT = ("job.yaml", "front.csv", "trials.csv", "tables.csv", "summary.json", "report.html", "report.md", "front.png")
NAME = "demo"
COLUMNS = ["trial", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "size_ratio", "accuracy_drop"]
COLUMNS += ["test_accuracy", "test_accuracy_drop", "recipe"]


class Family:
    """A process and all its descendants.

    Descendants still count when their parent has ended, and so do orphans of Ray or autocompress
    that are newer than the benchmark. Other searches on the machine do not count.
    """

    def __init__(self, root: psutil.Process) -> None:
        self._began = root.create_time()
        self._members = {root}

    def pss(self) -> int:
        """The memory of all running members together in bytes (PSS)."""
        self._members = {process for process in self._members | self._orphans() if process.is_running()}
        for process in tuple(self._members):
            try:
                self._members.update(process.children(recursive=True))
            except psutil.Error:
                continue  # it has just ended
        return sum(map(_pss, self._members))

    def _orphans(self) -> set[psutil.Process]:
        found = set()
        for process in psutil.process_iter(["ppid", "create_time", "cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            late = (process.info["create_time"] or 0.0) >= self._began
            if late and process.info["ppid"] == 1 and ("ray" in words or "autocompress" in words):
                found.add(process)
        return found


def _pss(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.uss))  # only Linux knows the PSS


def watched(command: list[str], environment: dict[str, str], home: Path) -> tuple[float, int]:
    """Runs ``command`` in the folder ``home`` to its end.

    Returns:
        Seconds, and the largest PSS in bytes of all its processes together.

    Raises:
        SystemExit: if it fails.
    """
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment, cwd=home) as process:
        family = Family(psutil.Process(process.pid))
        while True:
            peak = max(peak, family.pss())
            try:
                code = process.wait(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                continue
    if code:
        raise SystemExit(f"the search ended with exit code {code}")
    return time.perf_counter() - began, peak


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values, with null for missing figures."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records"))
    return rows


def best(front: pd.DataFrame) -> dict[str, Any] | None:
    """The fastest model within both targets of the demo on the test split; None without one."""
    meets = (front["latency_ratio"] <= TARGETS["latency_ratio"]) & (
        front["test_accuracy_drop"] <= TARGETS["test_accuracy_drop"]
    )
    return next(iter(records(front[meets].sort_values("latency_ratio"))), None)


def run(job: Path, trials: int | None, keep: Path | None) -> dict[str, Any]:
    """Runs one search, and returns its figures. Small files of the run are copied to ``keep``."""
    with tempfile.TemporaryDirectory(prefix="autocompress-demo-") as folder:
        home = Path(folder)
        command = [sys.executable, "-m", "autocompress.cli", "search", str(job.resolve())]
        command += ["--results", "results", "--name", NAME]
        command += [] if trials is None else ["--trials", str(trials)]
        load = psutil.getloadavg()[0]
        seconds, peak = watched(command, os.environ | {"AUTOCOMPRESS_CACHE": str(home / "cache")}, home)
        found = results.read(home / "results" / NAME)
        for name in KEPT if keep is not None else ():
            assert keep is not None
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(found.folder / name, keep / name)
    models = found.front[found.front["status"] != results.BASELINE][COLUMNS]
    return {
        "job": job.name,
        "targets": TARGETS,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak / 1e9, 2),
        "load_before": load,
        "trials": found.summary.get("trials"),
        "hypervolume": found.summary.get("hypervolume"),
        "best": best(models),
        "front": records(models),
        "environment": found.summary.get("environment"),
    }


def main() -> None:
    """Prints the figures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--trials", type=int, help="number of trials; that of the job by default")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/demo.json"))
    parser.add_argument("--keep", type=Path, help="folder for a copy of the report and tables")
    chosen = parser.parse_args()
    figures = run(chosen.job, chosen.trials, chosen.keep)
    write_json(chosen.out, figures)
    print(pd.DataFrame(figures["front"], columns=COLUMNS[:-1]).to_string(index=False, float_format="{:.3f}".format))
    print(f"{figures['seconds']:.0f} s (target {TARGETS['seconds']} s), {figures['trials']}")
    print(f"{figures['peak_gb']:.2f} GB at most (target {TARGETS['peak_gb']} GB)")
    print(f"hypervolume {figures['hypervolume']}")
    found = figures["best"]
    wish = f"at {TARGETS['latency_ratio']}x latency for {TARGETS['test_accuracy_drop']} points on the test split"
    print(
        f"best model {wish}: "
        + (f"{found['latency_ratio']:.3f}x for {found['test_accuracy_drop']:.2f} points" if found else "none")
    )


if __name__ == "__main__":
    main()

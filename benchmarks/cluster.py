"""A search on two Ray nodes on this machine: its speed, and whether it survives kills.

- ``speed``: trials an hour with two nodes of one processor each, against one such node. Latency is
  that of a cost model, because only one real measurement at a time is possible on a machine. Each
  recipe trains for an epoch.
- ``faults``: at a random moment of each run a random process gets SIGKILL: a worker, a node, the
  driver, or the head. Nodes that end are started again, as a batch system does. A run is correct if
  the command ends by itself, no finished trial is lost, none is counted twice, and the front is
  that of an undisturbed run. All runs try the same 24 recipes, which are the whole space.

- ``together``: two searches at once on the two nodes, with one cache: how long their processes
  wait for locks. The machine lock of measurements does not count.

    python benchmarks/cluster.py [--parts speed faults together] [--runs 20] [--out FILE]

With ``--first 8 --runs 4`` only the runs 8 to 11 of the 20 are made, and added to those in FILE.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from autocompress.files import write_text
from autocompress.job import load_job
from autocompress.results import SearchResult, read
from shared.rows import read as read_json
from shared.running import run_parts
from shared.two_nodes import TwoNodes

TARGET = 1.8
"""Target for the speed of two nodes relative to one."""
MOST_WAITING = 1.0
"""Maximum percent of the time for which two searches may wait for locks."""
VICTIMS = ("worker", "node", "driver", "head")
WARM = 3
"""First rows that do not count for the speed, because workers are still starting."""
ALL_RECIPES = {
    "quantize.weight_granularity": ["per_channel", "per_tensor"],
    "quantize.weight_range": ["minmax", "mse"],
    "quantize.activation_range": ["ema_minmax", "minmax", "mse"],
    "quantize.calibration_images": [64, 256],
    "quantize.weight_grid": "symmetric",
    "quantize.depthwise_bits": "8",
    "quantize.equalise": False,
    "quantize.bias_correction": True,
    "bits.weight.model": "quantize:8",
    "bits.activation.model": 8,
}
"""The space with 24 recipes."""
MOST_S = 600.0
"""Seconds after which a run counts as hanging."""


def write_job(file: Path, trials: int, qat_epochs: int) -> None:
    """Writes the job of all runs."""
    job = load_job(
        model="test_resnet",
        data="digits",
        methods=["quantize"],
        device="cost-model:bitops",
        space={**ALL_RECIPES, "qat.epochs": qat_epochs},
        granularity="model",
        sampler="random",
        budget={"trials": trials},
        baseline={"epochs": 4, "steps": 0},
        search={"tables": False, "proposals": False, "repair": False, "rungs": False},
        name="run",
    )
    write_text(file, job.to_yaml())


def start(job: Path, home: Path, nodes: TwoNodes, cache: Path, workers: int) -> subprocess.Popen[bytes]:
    """Starts the command as a user does."""
    flags = ["--address", nodes.address, "--workers", str(workers), "--results", str(home)]
    with (home / "said.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "autocompress.cli", "search", str(job), *flags],
            env={**nodes.environment, "AUTOCOMPRESS_CACHE": str(cache)},
            stdout=said,
            stderr=said,
        )


def finished(folder: Path) -> list[float]:
    """The time at which each row was finished, in seconds since the epoch."""
    file = folder / "log.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    times = [line[:23] for line in lines if re.search(r"\[\d+/\d+\] trial ", line)]
    return [datetime.strptime(one, "%Y-%m-%d %H:%M:%S,%f").timestamp() for one in times]


@contextlib.contextmanager
def a_cluster(second: bool, processors: int = 1) -> Any:
    """The nodes of a run, and the folder of its files."""
    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/tmp") as folder:
        home = Path(folder)
        nodes = TwoNodes({"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": "1"}, processors)
        try:
            nodes.start_head()
            if second:
                nodes.start("second")
            nodes.wait()
            yield nodes, home
        finally:
            nodes.stop()


# --- speed ----------------------------------------------------------------------------------------


def speed(trials: int, most_nodes: int) -> dict[str, Any]:
    """Trials per hour by number of nodes."""
    rows = [one_speed(trials, count) for count in range(1, most_nodes + 1)]
    ratio = rows[-1]["trials_per_hour"] / rows[0]["trials_per_hour"]
    return {"rows": rows, "ratio": round(ratio, 3), "target": TARGET, "met": ratio >= TARGET}


def one_speed(trials: int, count: int) -> dict[str, Any]:
    with a_cluster(second=count > 1) as (nodes, home):
        write_job(home / "job.yaml", trials, qat_epochs=1)
        began, busy = time.monotonic(), psutil.getloadavg()[0]
        process = start(home / "job.yaml", home, nodes, home / "cache", workers=count)
        code = process.wait(timeout=MOST_S)
        times = finished(home / "run")
        assert code in (0, 4), (home / "said.txt").read_text()
        warm = min(WARM, len(times) - 2)
        return {
            "nodes": count,
            "trials": len(times),
            "trials_per_hour": round(3600.0 * (len(times) - 1 - warm) / (times[-1] - times[warm]), 1),
            "seconds_in_all": round(time.monotonic() - began, 1),
            "load_before": round(busy, 2),
        }


# --- faults ---------------------------------------------------------------------------------------


def faults(runs: int, seed: int, first: int, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs in which a process is killed, compared with an undisturbed run.

    Args:
        runs: number of runs to make now.
        seed: random seed of the times of kills.
        first: number of the first run; ``earlier`` has the rows of runs before it.
        earlier: these rows.
    """
    draw = random.Random(seed)
    moments = [draw.randrange(1, 20) for _ in range(first + runs)]
    rows = earlier[:first]
    with a_cluster(second=True) as (nodes, home):
        undisturbed, _ = one_run(nodes, home / "undisturbed", home / "cache", None, 0)
        wanted = front_of(undisturbed)
        for number in range(first, first + runs):
            victim, after = VICTIMS[number % len(VICTIMS)], moments[number]
            folder = home / f"{number}"
            shutil.copytree(home / "cache" / "baselines", folder / "cache" / "baselines")
            result, row = one_run(nodes, folder, folder / "cache", victim, after)
            row |= {"same_front": front_of(result) == wanted, "changed": changed(undisturbed, result)}
            rows.append(row | {"right": is_right(row)})
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    return {
        "rows": rows,
        "runs": len(rows),
        "right": sum(row["right"] for row in rows),
        "met": all(r["right"] for r in rows),
    }


def fault_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of finished runs."""
    found: list[dict[str, Any]] = read_json(out).get("parts", {}).get("faults", {}).get("rows", [])
    return found


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether a run survived the kill."""
    return row["code"] in (0, 4) and row["rows"] == row["recipes"] == 24 and not row["lost"] and bool(row["same_front"])


def one_run(
    nodes: TwoNodes, folder: Path, cache: Path, victim: str | None, after: int
) -> tuple[SearchResult, dict[str, Any]]:
    """A search in which ``victim`` is killed after ``after`` finished trials."""
    folder.mkdir(parents=True, exist_ok=True)
    write_job(folder / "job.yaml", 100, qat_epochs=0)  # more than the number of recipes
    began, killed, before = time.monotonic(), victim is None, frozenset[int]()
    process = start(folder / "job.yaml", folder, nodes, cache, workers=2)
    while process.poll() is None and time.monotonic() - began < MOST_S:
        nodes.start_again()
        if not killed and len(finished(folder / "run")) >= after:
            before = frozenset(read(folder / "run").trials["trial"])
            killed = kill(victim or "", process, nodes)
        time.sleep(0.05)
    process.kill()
    assert killed, (folder / "said.txt").read_text()
    assert process.returncode != 2, (folder / "said.txt").read_text()
    result = read(folder / "run")
    numbers = list(result.trials["trial"])
    recipes = {str(sorted(recipe.items())) for recipe in result.trials["recipe"]}
    return result, {
        "victim": victim,
        "after": after,
        "code": process.returncode,
        "rows": len(numbers),
        "recipes": len(recipes),
        "lost": len(before - set(numbers)),
        "seconds": round(time.monotonic() - began, 1),
    }


def kill(victim: str, process: subprocess.Popen[bytes], nodes: TwoNodes) -> bool:
    """Sends SIGKILL; returns False if there is no such process."""
    if victim == "driver":
        for child in psutil.Process(process.pid).children():
            child.kill()
            return True
        return False
    if victim in ("node", "head"):
        name = "second" if victim == "node" else "head"
        if name not in nodes.nodes:
            return False
        nodes.kill(name)
        if victim == "head":
            nodes.start_head()
        else:
            nodes.start(name)
        return True
    for one in nodes.nodes.values():
        for child in psutil.Process(one.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name().startswith("ray::Worker"):
                    child.kill()
                    return True
    return False


def front_of(result: SearchResult) -> list[tuple[float, float]]:
    """Accuracy and latency ratio of the front's models, without repetitions."""
    return sorted({(round(one.accuracy, 6), round(one.latency_ratio, 6)) for one in result.models.itertuples()})


def changed(undisturbed: SearchResult, found: SearchResult) -> list[dict[str, Any]]:
    """The recipes that have other figures than in the undisturbed run."""

    def figures(result: SearchResult) -> dict[str, dict[str, Any]]:
        rows = result.trials[["recipe", "trial", "status", "reason", "accuracy", "latency_ratio"]].to_dict("records")
        return {str(sorted(row.pop("recipe").items())): row for row in rows}

    def told(row: Mapping[str, Any]) -> list[str]:
        return [str(row[name]) for name in ("status", "accuracy", "latency_ratio")]

    before, after = figures(undisturbed), figures(found)
    return [{"before": before[key], "after": row} for key, row in after.items() if told(before[key]) != told(row)]


# --- two searches ---------------------------------------------------------------------------------


def together(trials: int) -> dict[str, Any]:
    """Runs two searches of the same network on one cluster. Their cache is empty at first."""
    with a_cluster(second=True, processors=2) as (nodes, home):
        waits = home / "waits"
        waits.mkdir()
        began, busy = time.monotonic(), psutil.getloadavg()[0]
        nodes.environment["AUTOCOMPRESS_LOCK_WAITS"] = str(waits)
        searches = [start(job_of_two(home, name, trials), home / name, nodes, home / "cache", 2) for name in ("a", "b")]
        codes = [one.wait(timeout=2 * MOST_S) for one in searches]
        assert set(codes) <= {0, 4}, [(home / name / "said.txt").read_text() for name in ("a", "b")]
        found = [read_json(file) for file in waits.glob("*.json")]
        rows = [len(read(home / name / "run").trials) for name in ("a", "b")]
        seconds = time.monotonic() - began
    lived = sum(one["lived"] for one in found)
    shares = {
        kind: round(100 * sum(one.get(kind, 0.0) for one in found) / lived, 3)
        for kind in ("making", "others", "machine")
    }
    waited = shares["making"] + shares["others"]
    return {
        "trials": rows,
        "seconds": round(seconds, 1),
        "processes": len(found),
        "process_seconds": round(lived, 1),
        "waited_percent": shares,
        "load_before": round(busy, 2),
        "target_percent": MOST_WAITING,
        "met": waited <= MOST_WAITING,
    }


def job_of_two(home: Path, name: str, trials: int) -> Path:
    """The job of one of the two searches. Their seeds differ."""
    (home / name).mkdir()
    job = load_job(
        model="test_resnet",
        data="digits",
        methods=["magnitude", "quantize"],
        device="cost-model:bitops",
        budget={"trials": trials, "epochs": 1},
        baseline={"epochs": 4, "steps": 0},
        plugins=[Path(__file__).parent / "shared" / "lock_waits.py"],
        seed=ord(name),
        name="run",
    )
    write_text(home / name / "job.yaml", job.to_yaml())
    return home / name / "job.yaml"


# --- tables ---------------------------------------------------------------------------------------


def speed_lines(part: dict[str, Any]) -> list[str]:
    """The table of speeds."""
    told = [
        f"{row['nodes']} nodes: {row['trials_per_hour']:.0f} trials an hour, {row['trials']} trials in "
        f"{row['seconds_in_all']:.0f} s with the start; load before {row['load_before']}"
        for row in part["rows"]
    ]
    return [*told, f"two nodes against one: {part['ratio']:.2f} (wanted {part['target']})"]


def fault_lines(part: dict[str, Any]) -> list[str]:
    """The table of runs with a kill."""
    return [
        *(
            f"{row['victim']:7} after {row['after']:2} rows: exit code {row['code']}, {row['rows']} rows, "
            f"{row['lost']} lost, same front {row['same_front']}, {row['seconds']:.0f} s"
            for row in part["rows"]
        ),
        f"{part['right']} of {part['runs']} runs are right",
    ]


def together_lines(part: dict[str, Any]) -> list[str]:
    """The table of waiting times."""
    shares = part["waited_percent"]
    return [
        f"two searches of {part['trials'][0]} and {part['trials'][1]} trials, {part['processes']} processes, "
        f"{part['seconds']:.0f} s; load before {part['load_before']}",
        f"of the time of all processes, {shares['making']} % waits while another makes the same entry, "
        f"{shares['others']} % for other locks (together wanted: {part['target_percent']} %), "
        f"{shares['machine']} % for the machine lock",
    ]


LINES = {"speed": speed_lines, "faults": fault_lines, "together": together_lines}


def main() -> None:
    """Runs the parts, prints their tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument(
        "--trials", type=int, default=24, help="number of trials of the part speed, and of each of two searches"
    )
    parser.add_argument("--most-nodes", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first fault run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/cluster/cluster.json"))
    run_parts(
        parser.parse_args(),
        lambda chosen: {
            "speed": lambda: speed(chosen.trials, chosen.most_nodes),
            "together": lambda: together(chosen.trials),
            "faults": lambda: faults(chosen.runs, chosen.seed, chosen.first, fault_rows(chosen.out)),
        },
        LINES,
    )


if __name__ == "__main__":
    main()

"""The cost of a trial in addition to the work of its recipe.

A short search runs with one worker. The wall time from one row to the next is the time of a trial.
Four stages are the work of the recipe: training, exporting, measuring the latency, and scoring the
exported file. The rest of the time is counted in two ways:

- ``own``: all of the rest. It includes building the dry-run candidate, whose costs are checked
  before training, and comparing the exported file with the torch model.
- ``search``: the rest without these two. It has Optuna's ask and tell, Ray, and writing files.

In addition, ``driver`` is the processor time of the driver for each of 5,000 made-up rows, without
Ray Tune and Optuna: it checks whether the search is over, updates the front, deletes model files
and writes trials.csv.

    python benchmarks/trial_overhead.py --trials 12 [--driver-rows 5000] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autocompress.files import write_json
from autocompress.job import load_job
from autocompress.objectives.fronts import front_hypervolume
from autocompress.searching import run
from autocompress.searching.endings import Endings
from autocompress.searching.ledger import Ledger
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.progress import Silent

WORK = ("train", "export", "measure", "accuracy")
"""Stages of a trial that are work of the recipe."""
CHECKS = ("candidate", "agreement")
"""Stages that the search adds: to end hopeless trials early, and to find wrong files."""
TARGET_S = 0.3
"""Target for ``own``, in seconds per trial."""
DRIVER_TARGET_S = 0.01
"""Target for ``driver``, in seconds per row."""


def driver_seconds(count: int) -> float:
    """Processor seconds of the driver per row, for ``count`` made-up rows."""
    draw = np.random.default_rng(0)
    job = load_job(settings={"model": "resnet18", "data": "digits", "budget": {"trials": count, "stall": count}})
    baseline = {"accuracy": 90.0, "size_bytes": 4_000_000, "macs": 10**7, "params": 10**6}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ledger, kept = Ledger(home, []), KeptModels(home, job, baseline, [])
        endings = Endings(job, baseline)
        began = time.process_time()
        for number in range(count):
            row = made_up(number, draw)
            endings.add(row)
            kept.add(row)
            ledger.add(row)
            front_hypervolume(kept.front)
        ledger.save()
        return (time.process_time() - began) / count


def made_up(number: int, draw: np.random.Generator) -> dict[str, Any]:
    """A made-up row, as in a search: a model twice as fast loses about a point."""
    ratio = float(draw.uniform(0.05, 1.0))
    drop = float(max(0.0, -np.log2(ratio) + draw.normal(0.0, 0.7)))
    recipe = {f"prune.keep.layer{index}": float(draw.integers(1, 17)) / 16 for index in range(20)}
    low, high = 0.97 * ratio, 1.03 * ratio
    latency = {"latency_ratio": ratio, "ratio_low": low, "ratio_high": high, "baseline_ms": 2.0}
    costs = {"latency_ratio": ratio, "latency_ms": 2 * ratio, "size_bytes": int(4e6 * ratio), "macs": int(1e7 * ratio)}
    row = {"trial": number, "status": "complete", "accuracy": 90 - drop, "accuracy_drop": drop, "rung": 0}
    return {**row, **costs, "latency": latency, "recipe": recipe, "excess": {}, "artifact": f"artifacts/{number}"}


class Clock(Silent):
    """Records the time of each row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at: list[float] = []

    def on_trial(
        self,
        row: dict[str, Any],
        front_rows: Sequence[Any],
        hypervolume: float,
        trials_done: int,
        seconds_left: float | None,
    ) -> None:
        """The driver has received ``row``."""
        del front_rows, hypervolume, trials_done, seconds_left
        self.rows.append(row)
        self.at.append(time.perf_counter())


def main() -> None:
    """Runs the search and prints a row per trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--methods", nargs="+", help="methods of the search; all installed ones by default")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--driver-rows", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/trial_overhead.json"))
    chosen = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": chosen.model,
            "data": chosen.data,
            "methods": chosen.methods,
            "baseline": {"epochs": 1},
            "budget": {"trials": chosen.trials, "epochs": 1},
            "workers": 1,
            "results": folder,
            "name": "overhead",
        }
        run.search(load_job(settings=settings), observer=clock)
    table = pd.DataFrame([stages(row, wall) for row, wall in zip(clock.rows[1:], gaps(clock.at), strict=True)])
    own, search = float(table["own"].median()), float(table["search"].median())
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"median without the stages {', '.join(WORK)}: {own:.3f} s per trial (target {TARGET_S} s)")
    print(f"median also without {' and '.join(CHECKS)} (ask, tell, Ray, writing): {search:.3f} s per trial")
    driver = driver_seconds(chosen.driver_rows)
    print(f"the driver's own work: {1000 * driver:.2f} ms of processor time for each of {chosen.driver_rows} rows")
    write_json(
        chosen.out,
        {
            "driver": {"rows": chosen.driver_rows, "seconds_a_row": driver, "target_s": DRIVER_TARGET_S},
            "model": chosen.model,
            "data": chosen.data,
            "target_s": TARGET_S,
            "median_own_s": own,
            "median_search_s": search,
            "trials": table.to_dict("records"),
            "versions": run.versions(),
        },
    )


def gaps(at: list[float]) -> list[float]:
    """Seconds from row to row. With one worker, they are the whole time of the later trial."""
    return [later - earlier for earlier, later in itertools.pairwise(at)]


def stages(row: dict[str, Any], wall: float) -> dict[str, Any]:
    """Seconds of one trial by stage, and the remaining time with and without checks."""
    spent = {name: row.get("stages", {}).get(name, 0.0) for name in (*WORK, *CHECKS)}
    own = wall - sum(spent[name] for name in WORK)
    search = own - sum(spent[name] for name in CHECKS)
    return {"trial": row["trial"], "status": row["status"], "wall": wall, **spent, "own": own, "search": search}


if __name__ == "__main__":
    main()

"""What a trial costs beside the recipe's own work: the search's share of the wall time, warm, a
trial.

A short search runs with one worker. Of the wall time from row to row, training, exporting,
measuring the latency and scoring the exported file (which is measuring too) are the recipe's own
work. The rest is counted in two ways:

- ``own``, strictly: everything else, so building the dry-run candidate that gate 1 measures, and
  holding the exported file against the torch model, count as the search's cost;
- ``search``: less these two as well; what is left is asking, Ray, telling and writing files.

    python benchmarks/trial_overhead.py --trials 12 [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.files import write_json
from autocompress.job import load_job
from autocompress.searching import run
from autocompress.searching.progress import Silent

WORK = ("train", "export", "measure", "accuracy")
"""Stages of a trial that are the recipe's own work; scoring the exported file counts as measuring
it.
"""
CHECKS = ("candidate", "agreement")
"""Stages that the search adds so that no time is lost on a miss and no wrong file is scored."""
TARGET_S = 0.3


class Clock(Silent):
    """Notes when each row came."""

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
        """The driver has heard of ``row``."""
        del front_rows, hypervolume, trials_done, seconds_left
        self.rows.append(row)
        self.at.append(time.perf_counter())


def main() -> None:
    """Runs the search and prints a row a trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--methods", nargs="+", help="all that are installed, if not given")
    parser.add_argument("--trials", type=int, default=12)
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
    print(f"median beside {', '.join(WORK)} (scoring the file is measuring): {own:.3f} s a trial (target {TARGET_S} s)")
    print(f"median beside {' and '.join(CHECKS)} too (asking, Ray, telling, writing): {search:.3f} s a trial")
    write_json(
        chosen.out,
        {
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
    """Seconds from row to row: with one worker, what the later trial took in all."""
    return [later - earlier for earlier, later in itertools.pairwise(at)]


def stages(row: dict[str, Any], wall: float) -> dict[str, Any]:
    """Seconds of one trial by stage, and what is left over for the search itself, with and without
    its checks.
    """
    spent = {name: row.get("stages", {}).get(name, 0.0) for name in (*WORK, *CHECKS)}
    own = wall - sum(spent[name] for name in WORK)
    search = own - sum(spent[name] for name in CHECKS)
    return {"trial": row["trial"], "status": row["status"], "wall": wall, **spent, "own": own, "search": search}


if __name__ == "__main__":
    main()

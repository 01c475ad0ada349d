"""Processor time per trial of a driver with a thousand simulated workers.

The driver's parts are the real ones: study, journal on disk, dispatcher, climbing, endings, front,
model files, trials.csv. Workers are simulated: each answers, after simulated time, with a row from
a real search. Figures are varied a little, and recipes are those of the study, so nothing is tried
twice.

Processor time of Optuna (asking, drawing, telling, and replaying its journal) is counted
separately. Everything else is our own time, including writing the journal and the index of trials.
Ray Tune is not simulated.

    python benchmarks/cluster_simulation.py --workers 1000 --trials 100000 --folder /tmp/sim

A long study can be made in parts: the same command with more trials continues in the folder.
"""

from __future__ import annotations

import argparse
import heapq
import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from autocompress.contract.space import Chooser, Parameter, Value
from autocompress.files import digest, write_json
from autocompress.job import Job, load_job
from autocompress.objectives.fronts import front_hypervolume
from autocompress.searching.asked import Asked
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.endings import Endings
from autocompress.searching.ledger import Ledger
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.promotion.choosing import Climbing
from autocompress.searching.promotion.rows import climbed
from autocompress.searching.spool import Spool
from autocompress.searching.storing.journal import Journal
from autocompress.searching.study import Study
from autocompress.searching.windowed import Windowed

RECORDED = Path(__file__).parent.parent / "results" / "reference" / "demo" / "trials.csv"
BASELINE = {"accuracy": 99.2, "size_bytes": 44_700_000, "macs": 35_410_944, "params": 11_175_370}
TARGETS = {"results_a_second": 50, "own_ms_a_trial": 10, "gigabytes": 4}
OPTUNA = (
    (optuna.Study, ("ask", "tell", "enqueue_trial", "set_user_attr", "get_trials")),
    (optuna.Trial, ("__init__", "_suggest", "set_user_attr", "set_constraint")),
)
OURS = ((Journal, ("_write",)), (Windowed, ("get_all_trials", "of")))
"""Methods that Optuna calls, whose time counts as our own."""


class Meter:
    """Processor seconds by part; the time of an inner part does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds = {"own": 0.0, "optuna": 0.0, "workers": 0.0}
        self._parts = ["own"]
        self._since = time.process_time()
        self._undo = ExitStack()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block for ``name``."""
        self._turn()
        self._parts.append(name)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Counts the time of calls of a method for ``name``."""
        original = getattr(owner, method)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.part(name):
                return original(*arguments, **keywords)

        setattr(owner, method, timed)
        self._undo.callback(setattr, owner, method, original)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def read(self) -> dict[str, float]:
        """Seconds so far."""
        self._turn()
        return dict(self.seconds)


@dataclass(frozen=True)
class Recipe:
    """A recipe with the attributes that the driver uses."""

    values: Mapping[str, Value]
    trains: bool = False
    rung: int = 0
    family: str = "recorded"

    @property
    def key(self) -> str:
        """Content key."""
        return digest(dict(self.values))


@dataclass
class Table:
    """Recorded rows, and the space that their recipes span."""

    rows: list[dict[str, Any]]
    parameters: list[Parameter] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Table:
        """Reads the finished rows with an accuracy of a search."""
        table = pd.read_csv(file)
        rows = [
            {key: value for key, value in row.items() if not pd.isna(value)}
            for row in table[table["accuracy"].notna()].to_dict("records")
        ]
        recipes = [json.loads(row["recipe"]) for row in rows]
        choices: dict[str, list[Value]] = {}
        for recipe in recipes:
            for name, value in recipe.items():
                if value not in choices.setdefault(name, []):
                    choices[name].append(value)
        found = [Parameter(name, values[0], choices=tuple(values)) for name, values in choices.items()]
        found = [parameter for parameter in found if len(parameter.choices) > 1][:11]
        return cls(rows, [*found, Parameter("simulated.lr", 0.1, low=1e-4, high=1.0, log=True)])

    def compose(self, chooser: Chooser) -> Recipe:
        """A recipe of the space."""
        return Recipe({parameter.name: chooser.choose(parameter) for parameter in self.parameters})

    def row(self, asked: Asked, draw: np.random.Generator) -> dict[str, Any]:
        """The answer of a worker to a recipe of rung 0."""
        kept = self.rows[int(draw.integers(len(self.rows)))]
        ratio = float(kept["latency_ratio"] * draw.lognormal(0.0, 0.2))
        drop = float(kept["accuracy_drop"] + abs(draw.normal(0.0, 1.0)))
        costs = {"latency_ratio": ratio, "latency_ms": 0.4 * ratio}
        costs |= {name: int(kept[name]) for name in ("size_bytes", "macs", "params")}
        latency = {"latency_ratio": ratio, "ratio_low": 0.97 * ratio, "ratio_high": 1.03 * ratio, "baseline_ms": 0.4}
        quality = {"accuracy": BASELINE["accuracy"] - drop, "accuracy_drop": drop, "divergence": drop / 10}
        row = {"trial": asked.number, "status": "complete", "reason": "", "rung": 0, "recipe": asked.values}
        row |= {"label": asked.label, "family": f"family {int(draw.integers(4))}", "excess": {}, "artifact": ""}
        return {**row, **costs, **quality, "latency": latency, "seconds": float(kept["seconds"])}


@dataclass
class Driver:
    """The real driver, without the opened job, Ray and the closing."""

    job: Job
    folder: Path
    table: Table
    workers: int
    meter: Meter

    def __post_init__(self) -> None:
        began = time.process_time()
        self.study = Study(self.folder, self.job, BASELINE)
        self.study.recover()
        rows = self.study.rows()
        self.opening_seconds = time.process_time() - began
        self.done = len(rows)
        self.ledger = Ledger(self.folder, rows)
        self.kept = KeptModels(self.folder, self.job, BASELINE, rows)
        endings = Endings(self.job, BASELINE, rows)
        climbing = Climbing(self.job, BASELINE, rows, self.study.promoted())
        self.study.enqueue_proposals([])
        allowance = Allowance(trials=10**9, deadline=None, trial_seconds=1800.0)
        self.dispatcher = Dispatcher(
            self.study,
            self.table.compose,
            allowance,
            Spool(self.folder),
            self.on_row,
            endings=endings,
            climbing=climbing,
        )
        self.clock = 0.0
        self.draw = np.random.default_rng(self.done)
        self.under_way: list[tuple[float, int, Asked]] = []
        for worker in range(self.workers):
            self.send(worker)

    def on_row(self, row: dict[str, Any]) -> None:
        """Handles a row as a search does."""
        self.study.spend(self.clock)
        self.kept.add(row)
        self.ledger.add(row)
        front_hypervolume(self.kept.front)
        self.done += not row.get("reached")

    def send(self, worker: int) -> None:
        """Gives a worker its next recipe. The recorded row determines the time of the answer."""
        asked = self.dispatcher.hand_out(str(worker))
        assert asked is not None
        seconds = float(self.table.rows[asked.number % len(self.table.rows)]["seconds"])
        lasts = seconds * float(self.draw.lognormal(0.0, 0.3)) * (3.0 if asked.rung else 1.0)
        heapq.heappush(self.under_way, (self.clock + lasts, worker, asked))

    def step(self) -> None:
        """Lets the driver handle one answer."""
        self.clock, worker, asked = heapq.heappop(self.under_way)
        with self.meter.part("workers"):
            row = self.table.row(asked, self.draw)
            if (below := asked.below) is not None:
                better = {**below, "accuracy": below["accuracy"] + 0.3, "accuracy_drop": below["accuracy_drop"] - 0.3}
                row = climbed(below, better, asked.rung)
        told = self.dispatcher.finished(str(worker), row)
        self.send(worker)
        if told is not None:
            self.dispatcher.tell(told)


def measured(driver: Driver, results: int) -> dict[str, Any]:
    """Milliseconds per result by part, for the next ``results`` results."""
    before, clock, began = driver.meter.read(), driver.clock, time.perf_counter()
    for _ in range(results):
        driver.step()
    wall = time.perf_counter() - began
    after = driver.meter.read()
    spent = {name: 1000 * (after[name] - before[name]) / results for name in after}
    return {
        "trials": driver.done,
        "own_ms": round(spent["own"], 2),
        "optuna_ms": round(spent["optuna"], 2),
        "processor_results_a_second": round(1000 / (spent["own"] + spent["optuna"]), 1),
        "wall_results_a_second": round(results / wall, 1),
        "simulated_results_a_second": round(results / max(driver.clock - clock, 1e-9), 1),
        "gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def job_of(chosen: argparse.Namespace) -> Job:
    """The job of the simulation."""
    settings = {"model": "resnet18", "data": "digits", "sampler": chosen.sampler, "workers": chosen.workers}
    budget = {"trials": 10**6, "stall": 10**6}
    return load_job(settings={**settings, "budget": budget, "results": chosen.folder, "name": "simulated"})


def main() -> None:
    """Extends the study, and prints a row for each part of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=100_000, help="number of trials of the study at the end")
    parser.add_argument("--every", type=int, default=5000, help="results between two rows")
    parser.add_argument("--sampler", default="random", choices=["random", "tpe"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="minutes after which the run ends; it can be continued"
    )
    parser.add_argument("--out", type=Path, default=Path("results/cluster/simulation.json"))
    chosen = parser.parse_args()
    with Meter() as meter:
        for owners, name in ((OPTUNA, "optuna"), (OURS, "own")):
            for owner, methods in owners:
                for method in methods:
                    meter.wrap(owner, method, name)
        simulate(chosen, meter)


def simulate(chosen: argparse.Namespace, meter: Meter) -> None:
    """Continues the study in the folder."""
    job = job_of(chosen)
    job.folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * chosen.minutes
    driver = Driver(job, job.folder, Table.read(RECORDED), chosen.workers, meter)
    print(f"opened with {driver.done} trials in {driver.opening_seconds:.1f} s of a processor", flush=True)
    found = []
    while driver.done < chosen.trials and time.monotonic() < ends:
        found.append({"sampler": chosen.sampler, **measured(driver, min(chosen.every, chosen.trials))})
        print(found[-1], flush=True)
    driver.ledger.save()
    keep(chosen.out, chosen, driver.opening_seconds, found)


def keep(file: Path, chosen: argparse.Namespace, opening: float, found: list[dict[str, Any]]) -> None:
    """Adds the rows to those of earlier parts."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = [*before.get("rows", []), *found]
    write_json(
        file,
        {
            "command": "python benchmarks/cluster_simulation.py --workers N --trials N --sampler S --folder F",
            "workers": chosen.workers,
            "recorded": RECORDED.relative_to(RECORDED.parents[3]).as_posix(),
            "targets": TARGETS,
            "opening_seconds": max(opening, before.get("opening_seconds", 0.0)),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

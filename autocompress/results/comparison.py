"""Compares several runs on common axes: fronts, jobs, and whether they are comparable."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.errors import UserError
from autocompress.files import flattened
from autocompress.objectives.dominance import dominates
from autocompress.objectives.figures import ratio
from autocompress.objectives.hypervolume import speed_hypervolume
from autocompress.objectives.quantities import BY_NAME
from autocompress.results.columns import STATUSES
from autocompress.results.run import JOB_FILE, SearchResult, read
from autocompress.results.sofar import models_so_far

LEVELS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Losses of accuracy, in points, at which the attainment is reported."""
NOT_COMPARED = ("name", "results")
"""Keys of a job that always differ."""
COMPARABLE = {
    "model": "the models differ: ratios are relative to different baselines",
    "data": "the data differ: accuracies are of different images",
    "device.name": "the devices differ: ratios depend on the device",
    "device.threads": "the numbers of threads differ",
    "device.batch": "the batch sizes differ",
    "environment.processor": "the processors differ: ratios depend on the machine",
    "environment.runtime": "the runtimes differ",
}
"""The properties that comparable runs share, and the warning if they differ."""
_NO_MODEL = float("nan")


@dataclass(frozen=True)
class Compared:
    """A run beside others.

    Attributes:
        name: name of the folder, or its whole path if another run has the same name.
        result: the run.
        drops, costs: accuracy drops and costs of the models of the front, on the axes of all runs.
        hypervolume: hypervolume of these points (``objectives.hypervolume.SpeedFront``).
        counts: trials by status.
        is_over: whether its search has ended.
    """

    name: str
    result: SearchResult
    drops: Sequence[float]
    costs: Sequence[float]
    hypervolume: float
    counts: Mapping[str, int]
    is_over: bool

    def lowest_cost(self, points: float) -> float:
        """The lowest cost of a model that loses at most ``points``; NaN if there is none."""
        fits = [cost for drop, cost in zip(self.drops, self.costs, strict=True) if drop <= points + 1e-9]
        return min(fits, default=_NO_MODEL)


@dataclass(frozen=True)
class Comparison:
    """Runs on common axes.

    Attributes:
        runs: the runs in the order in which they were given.
        cost: the name of the common cost, a ratio to each run's own baseline.
        split: "test" if the front of every run was scored on it, else "validation".
        differences: dotted key and the runs' values, where these differ.
        warnings: why figures may not be comparable, a sentence each.
    """

    runs: Sequence[Compared]
    cost: str
    split: str
    differences: Sequence[tuple[str, Sequence[Any]]]
    warnings: Sequence[str]

    def attainment(self) -> list[tuple[float, list[float], float]]:
        """For each level of ``LEVELS``: the points, the lowest cost of each run, and their median.

        A run without such a model has NaN, and counts as infinite in the median.
        """
        rows = []
        for points in LEVELS:
            costs = [run.lowest_cost(points) for run in self.runs]
            middle = statistics.median(float("inf") if cost != cost else cost for cost in costs)
            rows.append((points, costs, _NO_MODEL if middle == float("inf") else middle))
        return rows

    def dominated(self) -> list[list[float]]:
        """Row ``i``, column ``j``: the share of run j's models that a model of run i dominates."""
        return [[_share(one, other) for other in self.runs] for one in self.runs]


def compare(*folders: str | Path) -> Comparison:
    """Reads runs and puts them on common axes, also while their searches run.

    Raises:
        UserError: if there are fewer than two, one is not a run, or they have no cost in common.
    """
    if len(folders) < 2:
        raise UserError("one run alone cannot be compared", "give two runs or more")
    results = [read(folder) for folder in folders]
    fronts = [models_so_far(result) for result in results]
    cost = _common_cost(results, fronts)
    tested = all(len(front) and front["test_accuracy_drop"].notna().all() for front in fronts)
    column = "test_accuracy_drop" if tested else "accuracy_drop"
    names = _names([Path(folder) for folder in folders])
    runs = [_compared(*run, cost, column) for run in zip(names, results, fronts, strict=True)]
    differences = _differences(results)
    told = {key for key, _ in differences}
    warnings = [
        text for key, text in COMPARABLE.items() if any(one == key or one.startswith(f"{key}.") for one in told)
    ]
    return Comparison(runs, cost, "test" if tested else "validation", differences, warnings)


def _common_cost(results: Sequence[SearchResult], fronts: Sequence[pd.DataFrame]) -> str:
    """The first cost that every run with a front has; those of the first job come first."""
    first = [str(name) for name in results[0].job.get("objectives") or () if name in BY_NAME]
    costs = [name for name in dict.fromkeys([*first, "latency", "size", "macs"]) if not BY_NAME[name].higher_is_better]
    filled = [(result, front) for result, front in zip(results, fronts, strict=True) if len(front)]
    for name in costs:
        if all(_costs(result, front, name) for result, front in filled):
            return name
    raise UserError("the runs have no cost in common", f"looked for: {', '.join(costs)}")


def _costs(result: SearchResult, front: pd.DataFrame, cost: str) -> list[float]:
    """The ratio of each model; empty if one of them is unknown."""
    base: dict[str, Any] = {str(name): value for name, value in result.baseline.items()}
    rows = [{str(name): value for name, value in row.items()} for _, row in front.iterrows()]
    found = [ratio(cost, row, base) for row in rows]
    return [] if None in found else [value for value in found if value is not None]


def _compared(name: str, result: SearchResult, front: pd.DataFrame, cost: str, column: str) -> Compared:
    known = front[front[column].notna()]
    drops, costs = [float(value) for value in known[column]], _costs(result, known, cost)
    counts = result.trials["status"].value_counts()
    by_status = {status: int(counts.get(status, 0)) for status in STATUSES}
    return Compared(name, result, drops, costs, speed_hypervolume(drops, costs), by_status, len(result.front) > 0)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path if another one has the same last part."""
    last = [folder.resolve().name for folder in folders]
    return [str(folder) if last.count(name) > 1 else name for folder, name in zip(folders, last, strict=True)]


def _share(one: Compared, other: Compared) -> float:
    points = list(zip(one.drops, one.costs, strict=True))
    others = list(zip(other.drops, other.costs, strict=True))
    beaten = sum(any(dominates(point, rival) for point in points) for rival in others)
    return beaten / len(others) if others else _NO_MODEL


def _differences(results: Sequence[SearchResult]) -> list[tuple[str, list[Any]]]:
    tables = [_told(result) for result in results]
    machines = [table for table, result in zip(tables, results, strict=True) if result.summary.get("environment")]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    # The environment of a run is written when its search ends.
    known = {key: machines if key.partition(".")[0] == "environment" else tables for key in keys}
    return [
        (key, values) for key, values in rows if any(table.get(key) != known[key][0].get(key) for table in known[key])
    ]


def _told(result: SearchResult) -> dict[str, Any]:
    """Job, versions and machine of a run, as one flat mapping."""
    job = {key: value for key, value in result.job.items() if key not in NOT_COMPARED}
    environment = {"environment": result.summary.get("environment") or {}}
    return flattened({**job, **environment}) | {
        f"version.{name}": text for name, text in versions(result.folder).items()
    }


def versions(folder: Path) -> dict[str, str]:
    """Versions of the libraries that wrote the run, from the first lines of its job file."""
    found = {}
    for line in (folder / JOB_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, version = line.removeprefix("# ").partition(" ")
        if not line.startswith("# ") or not version:
            break
        found[name] = version
    return found

"""Finds constraints that even the cheapest recipes miss, early in a search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.devices.lock import MachineLock
from autocompress.errors import InvalidRecipe
from autocompress.job import Job
from autocompress.objectives.bounds import bounded_value, excess, met
from autocompress.objectives.quantities import BY_NAME
from autocompress.objectives.spelling import Bound, spell_bound
from autocompress.recipes.choosers import Replay
from autocompress.results import Row
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import SearchableJob

ALONE = " alone"
"""Suffix of the label of a starting point with one method."""
MEASURED_S = 0.5
"""Seconds of latency measurement for each candidate."""
MOST_SECONDS = 20.0
"""Seconds after which no further candidate is measured.

A constraint that was not refuted by then is treated as reachable.
"""


@dataclass(frozen=True)
class OutOfReach:
    """A constraint that not even the cheapest candidates meet.

    Attributes:
        quantity: the bounded quantity.
        bound: as written in the job.
        nearest: the lowest value of a candidate, written in the same way.
        candidate: the label of that candidate.
    """

    quantity: str
    bound: str
    nearest: str
    candidate: str

    def __str__(self) -> str:
        return (
            f"the cheapest recipes miss {self.quantity} {self.bound}: their lowest value is about "
            f"{self.nearest} ({self.candidate})"
        )

    def state(self) -> dict[str, Any]:
        """The entry of the summary, as JSON."""
        return asdict(self)


def out_of_reach(
    opened: SearchableJob, measurer: Measurer, baseline: Row, pause: Callable[[], None] | None = None
) -> list[OutOfReach]:
    """The bounds on costs that none of the cheapest dry-run candidates meets.

    The candidate of all methods together is measured first. If it meets all bounds, no other
    candidate is measured. Nothing is trained. ``pause`` is called often.
    """
    left = dict(opened.job.constraints.bounds())
    nearest = {name: (value, "uncompressed") for name, value in _values(left, baseline, baseline).items()}
    ends = time.monotonic() + MOST_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        for label, values in reversed(opened.cheapest() if left else []):
            if time.monotonic() > ends:
                return []
            try:
                costs = _costs(opened, measurer, values, left, Path(folder) / "model.onnx", pause)
            except InvalidRecipe:
                continue
            for name, value in _values(left, costs, baseline).items():
                if name not in nearest or value < nearest[name][0]:
                    nearest[name] = value, label
            left = {name: bound for name, bound in left.items() if not _is_met(name, bound, nearest)}
            if not left:
                break
    return [
        OutOfReach(
            name,
            str(spell_bound(name, bound)),
            str(spell_bound(name, Bound(value=_three_digits(nearest[name][0]), relative=bound.relative))),
            nearest[name][1],
        )
        for name, bound in left.items()
        if name in nearest
    ]


def still_out(found: Sequence[OutOfReach], job: Job, rows: Sequence[Row], baseline: Row) -> list[OutOfReach]:
    """Those of ``found`` that no trial meets either."""
    bounds = job.constraints.bounds()
    reached = {name for row in rows for name, over in excess(bounds, row, baseline).items() if over <= 0}
    return [one for one in found if one.quantity not in reached]


def hopeless(
    opened: SearchableJob,
    measurer: Measurer,
    baseline: Row,
    labels: Sequence[str],
    pause: Callable[[], None] | None = None,
) -> dict[str, str]:
    """Starting points of single methods that cannot meet a bound, each with that bound.

    The cheapest recipe of such a method misses the bound.
    """
    bounds, found = opened.job.constraints.bounds(), dict[str, str]()
    ends = time.monotonic() + MOST_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        for method, values in opened.cheapest() if bounds else []:
            label = f"{method}{ALONE}"
            if label not in labels or time.monotonic() > ends:
                continue
            try:
                costs = _costs(opened, measurer, values, bounds, Path(folder) / "model.onnx", pause)
            except InvalidRecipe:
                continue
            nearest = {name: (value, method) for name, value in _values(bounds, costs, baseline).items()}
            missed = [name for name, bound in bounds.items() if name in nearest and not _is_met(name, bound, nearest)]
            if missed:
                found[label] = missed[0]
    return found


def _is_met(name: str, bound: Bound, nearest: dict[str, tuple[float, str]]) -> bool:
    return name in nearest and bool(met(BY_NAME[name], nearest[name][0], bound.value))


def _values(bounds: dict[str, Bound], row: Row, baseline: Row) -> dict[str, float]:
    """The values to compare with each bound, where known."""
    found = {name: bounded_value(name, bound, row, baseline) for name, bound in bounds.items()}
    return {name: value for name, value in found.items() if value is not None}


def _costs(
    opened: SearchableJob,
    measurer: Measurer,
    values: dict[str, Any],
    bounds: dict[str, Bound],
    file: Path,
    pause: Callable[[], None] | None,
) -> Row:
    """Costs of the structure of a recipe, with its latency at the low end of the interval."""
    lock = MachineLock()
    with lock.shared():  # building and exporting load the machine as training does
        candidate = opened.candidate(opened.compose(Replay(values)), dry_run=True, pause=pause)
        costs: Row = {"params": candidate.params, "macs": candidate.macs}
        if set(bounds) <= {"params", "macs"}:
            return costs
        deployable = opened.export(candidate, file)
    costs["size_bytes"] = deployable.file.stat().st_size
    if {"latency", "energy"} & set(bounds):
        measured = measurer.measure(deployable, opened.baseline.deployable, seconds=MEASURED_S)
        scale = measured.ratio_low / measured.latency_ratio
        costs |= {"latency_ratio": measured.ratio_low, "latency_ms": measured.latency_ms * scale}
        costs["energy_uj"] = measured.energy_uj
    return costs


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")

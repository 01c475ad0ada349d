"""The front of a search's rows, its contenders, and the nearest miss.

A row has ``trial`` (its number), ``status``, the columns of trials.csv, ``latency`` (the fields of
a measurement) and ``excess`` (by how much it exceeds each bound). Any figure may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from autocompress.objectives.bounds import met
from autocompress.objectives.dominance import Front, dominates
from autocompress.objectives.figures import Figures, known, point
from autocompress.objectives.hypervolume import SpeedFront
from autocompress.objectives.quantities import BY_NAME

Row = TypeVar("Row", bound=Mapping[str, Any])

USUAL_BAR = 1.0
"""Points of accuracy that a model may lose where the job bounds no drop."""
MOST_CONTENDERS = 16
"""Maximum number of models that are kept for a second measurement. A larger front is kept whole."""


class RowFront(Generic[Row]):
    """The front of rows that arrive one by one.

    It holds complete rows. While there are none, it holds rows that have an accuracy but miss a
    bound, so that there is always a front. It never holds failed rows and rows without an accuracy.

    Args:
        objectives: objectives of the job.
        baseline: the baseline's row.
    """

    def __init__(self, objectives: Sequence[str], baseline: Figures) -> None:
        self._objectives, self._baseline = objectives, baseline
        self._complete: Front[Row] = Front()
        self._missing: Front[Row] = Front()

    def add(self, row: Row, number: int) -> bool:
        """Adds a row.

        Of rows with equal objectives, the front holds the one of the lowest ``number``.

        Returns:
            Whether the row is on the front now.
        """
        if row["status"] == "failed" or known(row, "accuracy") is None:
            return False
        if row["status"] == "complete":
            self._missing = Front()
            return self._complete.add(self._point(row), row, number)
        return not len(self._complete) and self._missing.add(self._point(row), row, number)

    def discard(self, number: int) -> None:
        """Removes the row with that number, which a better one replaces."""
        self._complete.discard(number)
        self._missing.discard(number)

    @property
    def rows(self) -> list[Row]:
        """The front, the most accurate first, then the fastest."""
        return sorted(self._complete.items or self._missing.items, key=_accurate_first)

    def _point(self, row: Row) -> tuple[float, ...]:
        return point(self._objectives, row, self._baseline)


def front_rows(objectives: Sequence[str], rows: Iterable[Row], baseline: Figures) -> list[Row]:
    """The front of ``rows``; see :class:`RowFront`.

    Of rows with equal objectives it holds the first.
    """
    front: RowFront[Row] = RowFront(objectives, baseline)
    for number, row in enumerate(rows):
        front.add(row, number)
    return front.rows


class Contenders(Generic[Row]):
    """The front, and the rows that may belong to it within the noise of latency.

    A row is no contender if some row of the front is as good in every objective and has a latency
    interval entirely below that of the former. There are at most ``MOST_CONTENDERS``: the rows of
    the front first, then the fastest. A row that is no contender never becomes one again, because
    its model is deleted.

    Args:
        objectives: objectives of the job.
        baseline: the baseline's row.
        rows: those that are there already.
    """

    def __init__(self, objectives: Sequence[str], baseline: Figures, rows: Iterable[Row] = ()) -> None:
        self._objectives, self._baseline = objectives, baseline
        self._front: RowFront[Row] = RowFront(objectives, baseline)
        self._close: list[tuple[int, Row]] = []
        self._count = 0
        self._take(rows)

    @property
    def front(self) -> list[Row]:
        """The front's rows, the most accurate first."""
        return self._front.rows

    @property
    def rows(self) -> list[Row]:
        """All contenders: the front, then the others, the fastest first."""
        return [*self.front, *(row for _, row in self._close)]

    def discard(self, trial: int) -> None:
        """Removes the row of ``trial``, which a better one of the same trial replaces."""
        self._front.discard(trial)
        self._close = [(number, row) for number, row in self._close if number != trial]

    def add(self, row: Row) -> list[Row]:
        """Adds a row. The cost does not grow with the number of rows that were added before.

        Returns:
            The rows that are no contenders any more, or ``row`` itself if it is none.
        """
        before = self.rows
        self._take([row])
        kept = {id(one) for one in self.rows}
        return [one for one in (*before, row) if id(one) not in kept]

    def _take(self, rows: Iterable[Row]) -> None:
        front = {id(row): row for row in self.front}
        candidates = list(self._close)
        for row in rows:
            self._front.add(row, row["trial"])
            candidates.append((row["trial"], row))
        candidates += [(row["trial"], row) for row in front.values()]
        self._close = self._among(candidates)

    def _among(self, candidates: Sequence[tuple[int, Row]]) -> list[tuple[int, Row]]:
        """The contenders besides the front."""
        front = self.front
        on_front = {id(row) for row in front}
        highs = [self._point(_with_latency(row, "ratio_high")) for row in front]
        close = [
            (number, row)
            for number, row in sorted(candidates, key=lambda candidate: candidate[0])
            if row["status"] == "complete"
            and id(row) not in on_front
            and not any(dominates(high, self._point(_with_latency(row, "ratio_low"))) for high in highs)
        ]
        close.sort(key=lambda candidate: (_or_worst(candidate[1], "latency_ratio"), *_accurate_first(candidate[1])))
        different: dict[tuple[float, ...], tuple[int, Row]] = {}
        for candidate in close:
            different.setdefault(self._point(candidate[1]), candidate)
        return list(different.values())[: max(0, MOST_CONTENDERS - len(front))]

    def _point(self, row: Mapping[str, Any]) -> tuple[float, ...]:
        return point(self._objectives, row, self._baseline)


def front_hypervolume(front: Iterable[Figures]) -> float | None:
    """The hypervolume of a front (``hypervolume.SpeedFront``); None for rows without latency."""
    worth = SpeedFront()
    is_empty, is_judged = True, False
    for row in front:
        is_empty = False
        drop, ratio = known(row, "accuracy_drop"), known(row, "latency_ratio")
        if drop is not None and ratio is not None and ratio > 0:
            worth.add(drop, ratio)
            is_judged = True
    return worth.hypervolume if is_judged or is_empty else None


def nearest_miss(rows: Iterable[Row]) -> Row | None:
    """The infeasible row that is nearest to its bounds.

    None if a row is complete, or no row is infeasible.

    At equal distance a row with an accuracy is preferred, because all its bounds are known.
    """
    rows = list(rows)
    if any(row["status"] == "complete" for row in rows):
        return None
    return next(iter(by_distance(rows)), None)


def by_distance(rows: Iterable[Row]) -> list[Row]:
    """The infeasible rows with recipes that can be built, the nearest to the bounds first."""
    missed = [row for row in rows if row["status"] == "infeasible" and "valid" not in (row.get("excess") or {})]
    return sorted(missed, key=lambda row: (distance(row), known(row, "accuracy") is None))


def distance(row: Figures) -> float:
    """Sum of the excesses of ``row`` over all bounds; infinite if nothing is known."""
    values = [value for value in (row.get("excess") or {}).values() if value is not None]
    if not values:
        return math.inf
    return sum(value if math.isfinite(value) else math.inf for value in values if not value <= 0)


def within_bar(row: Figures, points: float) -> bool:
    """Whether ``row`` has files and loses at most ``points`` of accuracy; costs do not matter."""
    drop = known(row, "accuracy_drop")
    scored = row["status"] in ("complete", "infeasible") and bool(row.get("artifact"))
    return scored and drop is not None and bool(met(BY_NAME["accuracy_drop"], drop, points))


def fastest_within(rows: Iterable[Row], points: float) -> Row | None:
    """The fastest model that loses at most ``points`` of accuracy.

    It may miss other constraints. None if no such model is faster than the baseline.
    """
    fast = [row for row in rows if within_bar(row, points) and _or_worst(row, "latency_ratio") < 1]
    return min(fast, key=lambda row: (_or_worst(row, "latency_ratio"), *_accurate_first(row)), default=None)


def _or_worst(row: Figures, column: str) -> float:
    """A cost of ``row``; infinite if it is missing."""
    value = known(row, column)
    return math.inf if value is None else value


def _accurate_first(row: Figures) -> tuple[float, float]:
    """Sort key: the most accurate first, then the fastest. Missing values come last."""
    accuracy = known(row, "accuracy")
    return (math.inf if accuracy is None else -accuracy, _or_worst(row, "latency_ratio"))


def _with_latency(row: Figures, end: str) -> Figures:
    """``row`` with its latency at one end of the interval: ``ratio_low`` or ``ratio_high``."""
    measured = row.get("latency") or {}
    ratio, middle, milliseconds = known(measured, end), known(measured, "latency_ratio"), known(row, "latency_ms")
    if ratio is None or not middle:
        return row
    scaled = None if milliseconds is None else milliseconds * ratio / middle
    return {**row, "latency_ratio": ratio, "latency_ms": scaled}

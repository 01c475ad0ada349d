"""Decides which recipe is trained next: successive halving for several objectives.

The schedule is ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
2020): a recipe is promoted when a worker is free, without waiting for other recipes of its rung. Of
the recipes of a rung, one in ``ETA`` is promoted, and at least one of each family of methods. They
are ordered by non-domination and crowding. Costs are the measured ones. The accuracy is the one
predicted after training, at the upper end of its interval.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from autocompress.job import Job
from autocompress.objectives.bounds import excess
from autocompress.objectives.dominance import crowding, ranks
from autocompress.objectives.figures import known, point
from autocompress.objectives.fronts import RowFront
from autocompress.objectives.quantities import POINTS
from autocompress.results import Row
from autocompress.searching.promotion.gain import Climber, Gain, Gains
from autocompress.searching.promotion.rows import accuracies, kept_of
from autocompress.searching.promotion.states import LAST_RUNG, RungTable, standing_of

ETA = 4
"""One of this number of recipes on a rung is promoted."""
SHARE, LAST_SHARE = 0.3, 0.5
"""Largest shares of the time of workers for rungs above 0, with and without other recipes."""
WORTH = 0.2
"""Minimum expected gain of a training in points."""
TIMES_SCORING = 10.0
"""Time to train on an image, as a multiple of the time to score one.

It predicts the duration of a rung before any rung was finished. Training takes three passes in
float, and scoring one pass with integers.
"""
UNKNOWN_TIMES = 10.0
"""The same as a multiple of the time of rung 0, if the time of scoring is unknown."""
FIRST_PASS = 12
"""Recipes to try before any is trained: the number of budgets of proposals."""
MOST_CANDIDATES = 256
"""Maximum number of recipes of a rung to compare; only the last ones are compared."""


@dataclass(frozen=True)
class Promotion:
    """A recipe to train: the number of its trial, and its next rung."""

    number: int
    rung: int


@dataclass
class _Seconds:
    """Times of the recipes of a rung: their sum, and the median of the last ones."""

    sum: float = 0.0
    last: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_CANDIDATES))

    def add(self, seconds: float) -> None:
        self.sum += seconds
        self.last.append(seconds)

    @property
    def median(self) -> float | None:
        return statistics.median(self.last) if self.last else None


class Climbing:
    """The recipes of a search between their rungs.

    Args:
        job: job of the search.
        baseline: the baseline's row.
        rows: the rows so far.
        promoted: the highest rung to which each was promoted, by number.
        effort: for each rung, its number of training images per image that scores a recipe.
    """

    def __init__(
        self,
        job: Job,
        baseline: Row,
        rows: Iterable[Row],
        promoted: Mapping[int, int],
        effort: Mapping[int, float] | None = None,
    ) -> None:
        self._job, self._baseline = job, baseline
        self._effort, self._scoring = effort or {}, _Seconds()
        self._rows: dict[int, Row] = {}
        self._front: RowFront[Row] = RowFront(job.objectives, baseline)
        self._seen: list[tuple[Climber, float]] = []
        self._gains = Gains()
        self._seconds = {rung: _Seconds() for rung in range(LAST_RUNG + 1)}
        self._families: set[str] = set()
        self._choice: Promotion | None = None
        self._is_chosen = False
        self.table = RungTable()
        for row in rows:
            self.table.put(row["trial"], standing_of(kept_of(row, promoted.get(row["trial"]))))
            self._learn(row)
        self._unheld = self.table.waiting()
        self._families |= {self._rows[number]["family"] for number in self._unheld}

    # --- events -----------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Adds the row of a recipe, of rung 0 or of a higher rung."""
        number = row["trial"]
        if number not in self.table:
            self.table.asked(number)
        standing, kept = self.table[number], kept_of(row, None)
        if not standing.is_open or kept.reached != standing.tried:
            return
        self.table.put(number, standing.ended(kept.rung) if kept.is_final else standing.kept())
        self._learn(row)

    def promote(self, promotion: Promotion) -> None:
        """Records that a worker gets the recipe."""
        if promotion.number in self._unheld:
            self._unheld.remove(promotion.number)
        else:
            self.table.put(promotion.number, self.table[promotion.number].promoted())
        self._families.add(self._rows[promotion.number]["family"])
        self._is_chosen = False

    def row(self, number: int) -> Row:
        """The current row of a recipe that climbs."""
        return self._rows[number]

    # --- choosing ---------------------------------------------------------------------------------

    def next(self, *, is_last: bool, seconds: float | None) -> Promotion | None:
        """The recipe to train now; None if none should be trained.

        Trainings that were interrupted by the end of a search come first.

        Args:
            is_last: there is no other recipe to try.
            seconds: remaining time of the search; None for no limit.
        """
        if self._unheld and (seconds is None or seconds > 0):
            number = self._unheld[0]
            return Promotion(number, self.table[number].tried)
        if not self._is_chosen:
            self._choice, self._is_chosen = self._chosen(), True
        if self._choice is None or not self._has_time(self._choice.rung, is_last, seconds):
            return None
        return self._choice

    @property
    def is_first_pass(self) -> bool:
        """Whether waiting recipes should be tried before any is trained."""
        return self.table.reached(0) < FIRST_PASS

    def expected_seconds(self, rung: int) -> float:
        """Expected seconds of a training of ``rung``."""
        if (seen := self._seconds[rung].median) is not None:
            return seen
        plain = self._seconds[0].median or 0.0
        if rung in self._effort and (scoring := self._scoring.median) is not None:
            return plain + TIMES_SCORING * scoring * self._effort[rung]
        return UNKNOWN_TIMES * (self._seconds[rung - 1].median or plain)

    def _has_time(self, rung: int, is_last: bool, seconds: float | None) -> bool:
        expected = self.expected_seconds(rung)
        under_way = sum(self.expected_seconds(self.table[number].tried) for number in self.table.waiting())
        above = sum(own.sum for number, own in self._seconds.items() if number) + under_way + expected
        share = LAST_SHARE if is_last else SHARE
        is_due = above <= share * (above + self._seconds[0].sum)
        return is_due and (seconds is None or expected <= seconds)

    def _chosen(self) -> Promotion | None:
        for rung in reversed(range(LAST_RUNG)):
            ready = [self._rows[number] for number in self.table.ready(rung)][-MOST_CANDIDATES:]
            ordered = self._ordered(ready, rung + 1)
            if self.table.promotions(rung) < self.table.reached(rung) // ETA:
                best = next((row for row, rank in ordered if rank == 0), None)
            else:
                new = (row for row, _ in ordered if rung == 0 and row["family"] not in self._families)
                best = next(new, None)
            if best is not None:
                return Promotion(best["trial"], rung + 1)
        return None

    def _ordered(self, ready: list[Row], rung: int) -> list[tuple[Row, int]]:
        """The recipes for which training is useful, best first, each with its rank."""
        gains = {row["trial"]: self._gains.predict(self._climber(row, rung)) for row in ready}
        worth = [row for row in ready if self._is_worth(row, gains[row["trial"]])]
        if not worth:
            return []
        hoped = [self._hoped(row, gains[row["trial"]].upper) for row in worth]
        ours = {row["trial"] for row in worth}
        rivals = [*hoped, *(row for row in self._front.rows if row["trial"] not in ours)]
        points = np.array([point(self._job.objectives, row, self._baseline) for row in rivals])
        found = ranks(points, [self._violation(row) for row in rivals])[: len(worth)]
        room = np.zeros(len(worth))
        for rank in set(found.tolist()):
            room[found == rank] = crowding(points[: len(worth)][found == rank])
        means = [gains[row["trial"]].mean for row in worth]
        order = sorted(range(len(worth)), key=lambda at: (found[at], -room[at], -means[at], worth[at]["trial"]))
        return [(worth[at], int(found[at])) for at in order]

    def _is_worth(self, row: Row, gain: Gain) -> bool:
        """Whether training is expected to help, and costs meet their bounds."""
        drop = known(row, "accuracy_drop")
        costs = excess(self._job.constraints.bounds(), row, self._baseline)
        is_within = drop is not None and drop - gain.mean < POINTS
        return gain.mean >= WORTH and is_within and all(value <= 0 for value in costs.values())

    def _hoped(self, row: Row, gain: float) -> Row:
        return {**row, "accuracy": row["accuracy"] + gain, "accuracy_drop": row["accuracy_drop"] - gain}

    def _violation(self, row: Row) -> float:
        found = excess(self._job.constraints.all_bounds(), row, self._baseline)
        return sum(max(value, 0.0) for value in found.values())

    # --- predicting gains -------------------------------------------------------------------------

    def _learn(self, row: Row) -> None:
        number, before = row["trial"], self._rows.get(row["trial"])
        self._is_chosen = False
        above = float(row.get("climbing_seconds", 0.0))
        known_above = 0.0 if before is None else float(before.get("climbing_seconds", 0.0))
        if before is None:
            self._seconds[0].add(float(row.get("seconds", 0.0)) - above)
            if "accuracy" in row.get("stages", {}):
                self._scoring.add(row["stages"]["accuracy"])
        reached = int(row.get("reached", 0))
        if reached:
            self._families.add(row["family"])
        if reached and above > known_above:
            self._seconds[reached].add(above - known_above)
        self._front.discard(number)
        self._front.add(row, number)
        self._rows[number] = row
        new = list(self._gained(row, 0 if before is None else int(before.get("reached", 0))))
        if new:
            self._seen += new
            self._gains = Gains(self._seen)

    def _gained(self, row: Row, above: int) -> Iterable[tuple[Climber, float]]:
        """The gains of trainings on rungs above ``above``."""
        tried = accuracies(row)
        for rung in range(above + 1, LAST_RUNG + 1):
            below = [value for number, value in tried.items() if number < rung]
            if rung in tried and below:
                drop = self._baseline["accuracy"] - max(below)
                yield self._climber({**row, "accuracy_drop": drop}, rung), tried[rung] - max(below)

    def _climber(self, row: Row, rung: int) -> Climber:
        drop = known(row, "accuracy_drop")
        return Climber(drop or 0.0, known(row, "divergence"), str(row.get("family", "")), rung)

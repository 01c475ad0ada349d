"""Which rows of a search increase the hypervolume over the objectives of the job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.objectives.dominance import Front
from autocompress.objectives.figures import Figures, known, ratio
from autocompress.objectives.fronts import distance
from autocompress.objectives.hypervolume import BEST_LOG_SPEEDUP, hypervolume
from autocompress.objectives.quantities import BY_NAME, POINTS

LEAST_GAIN = 1e-3
"""Minimum gain of hypervolume (which is at most 1); a smaller gain is measurement noise."""


class Gains:
    """The hypervolume of rows that arrive one by one, over the objectives of a job.

    Each objective is a coordinate from 0 to 1, as in ``hypervolume.SpeedFront``: accuracy by the
    share of ten points that is not lost, a cost by the logarithm of its ratio to the baseline's.
    While no row meets all constraints, a row gains if it is nearer to them than all rows before.

    Args:
        objectives: objectives of the job.
        baseline: the baseline's row.
    """

    def __init__(self, objectives: Sequence[str], baseline: Figures) -> None:
        self._objectives, self._baseline = objectives, baseline
        self._front: Front[None] = Front()
        self._count = 0
        self._is_met = False
        self._nearest = math.inf
        self.hypervolume = 0.0

    def add(self, row: Mapping[str, Any]) -> bool:
        """Adds a row.

        Returns:
            Whether it gains at least ``LEAST_GAIN``.
        """
        if row["status"] == "infeasible" and not self._is_met and "valid" not in row["excess"]:
            before, self._nearest = self._nearest, min(self._nearest, distance(row))
            return self._nearest < before - LEAST_GAIN
        if row["status"] != "complete":
            return False
        self._is_met = True
        place = [self._place(name, row) for name in self._objectives]
        self._count += 1
        if not all(place) or not self._front.add([-value for value in place], None, self._count):
            return False
        before, self.hypervolume = self.hypervolume, hypervolume(self._front.points, [0.0] * len(place))
        return self.hypervolume - before >= LEAST_GAIN

    def _place(self, name: str, row: Figures) -> float:
        """The coordinate of the objective ``name``, from 0 (worst) to 1 (best)."""
        if BY_NAME[name].higher_is_better:
            drop = known(row, "accuracy_drop")
            return 0.0 if drop is None else 1.0 - min(max(drop / POINTS, 0.0), 1.0)
        share = ratio(name, row, self._baseline)
        if share is None or share <= 0:
            return 0.0
        return min(max(-math.log2(share), 0.0), BEST_LOG_SPEEDUP) / BEST_LOG_SPEEDUP

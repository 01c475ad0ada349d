"""Decides when a search ends early: without further gain, or with the constraints met."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.job import Job
from autocompress.objectives.gains import Gains
from autocompress.results import Row


class Endings:
    """Judges each finished row by ``budget.stall`` and ``budget.until_met``.

    Args:
        job: job of the search.
        baseline: the baseline's row.
        rows: the rows so far.
    """

    def __init__(self, job: Job, baseline: Row, rows: Iterable[Row] = ()) -> None:
        self._budget = job.budget
        self._gains = Gains(job.objectives, baseline)
        self._without_gain = 0
        self._met: int | None = None
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Adds the row of a trial.

        A row of a higher rung without a gain does not count towards ``budget.stall``.
        """
        if self._gains.add(row):
            self._without_gain = 0
        elif not row.get("reached"):
            self._without_gain += 1
        if self._met is None and row["status"] == "complete":
            self._met = row["trial"]

    @property
    def is_met(self) -> bool:
        """Whether a trial meets all constraints, and the job sets ``budget.until_met``."""
        return self._budget.until_met and self._met is not None

    @property
    def why(self) -> str:
        """The reason to begin no more trials; empty if there is none."""
        if self.is_met:
            return f"trial {self._met} meets all constraints"
        if self._budget.stall is not None and self._without_gain >= self._budget.stall:
            return f"the last {self._budget.stall} trials gained no hypervolume"
        return ""

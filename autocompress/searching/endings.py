"""When a search has enough: nothing is gained any more, or what was asked is there."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.job import Job
from autocompress.objectives.gains import Gains
from autocompress.results import Row


class Endings:
    """Judges each finished row by ``budget.stall`` and ``budget.until_met``.

    Args:
        job: of the search.
        baseline: the baseline's row.
        rows: those that are there already.
    """

    def __init__(self, job: Job, baseline: Row, rows: Iterable[Row] = ()) -> None:
        self._budget = job.budget
        self._gains = Gains(job.objectives, baseline)
        self._without_gain = 0
        self._met: int | None = None
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """A trial has its row, or another one on a higher rung: that counts only if it gains."""
        if self._gains.add(row):
            self._without_gain = 0
        elif not row.get("reached"):
            self._without_gain += 1
        if self._met is None and row["status"] == "complete":
            self._met = row["trial"]

    @property
    def is_met(self) -> bool:
        """A trial meets all constraints, and the job asks for no more: no other trial need end."""
        return self._budget.until_met and self._met is not None

    @property
    def why(self) -> str:
        """Why no more trials are begun; empty while they are."""
        if self.is_met:
            return f"trial {self._met} meets all constraints"
        if self._budget.stall is not None and self._without_gain >= self._budget.stall:
            return f"the last {self._budget.stall} trials gained no hypervolume"
        return ""

"""The rows in the driver, and trials.csv. The time to add a row does not grow with their number."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from autocompress.files import kept_if_possible
from autocompress.results import Row
from autocompress.searching.closing import save_trials

EVERY_S = 2.0
"""Minimum seconds between two writes of the table."""
SHARE = 0.02
"""Largest share of the time for writing it."""


class Ledger:
    """Rows by number of their trial.

    Args:
        folder: ``results/<name>``.
        rows: the rows so far, in the order of their numbers.
        clock: returns seconds.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self.rows = list(rows)
        self._not_before = clock()
        self.save()

    def add(self, row: Row) -> None:
        """Adds a row, or replaces the row of a lower rung; trials.csv follows within seconds."""
        at = bisect_left(self.rows, row["trial"], key=lambda one: one["trial"])
        if at < len(self.rows) and self.rows[at]["trial"] == row["trial"]:
            self.rows[at] = row
        else:
            self.rows.insert(at, row)
        if self._clock() >= self._not_before:
            with kept_if_possible(self._folder):  # the study has the rows
                self.save()

    def save(self) -> None:
        """Writes trials.csv."""
        began = self._clock()
        save_trials(self._folder, self.rows)
        ended = self._clock()
        self._not_before = ended + max(EVERY_S, (ended - began) / SHARE)

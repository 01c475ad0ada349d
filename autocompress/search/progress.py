"""Observers: what a search tells whoever watches it; the command line draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autocompress.search.bounds import Row


class Observer(Protocol):
    """Watches a search, in the process that runs it."""

    def on_start(self, total: int) -> None:
        """The first trial is about to run; ``total`` is the budget, earlier runs' trials included."""

    def on_baseline(self, row: Row) -> None:
        """The baseline's row is known."""

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """A trial has its row.

        Args:
            row: the columns of trials.csv and, beside them, ``label``.
            front_rows: the front so far, the most accurate first.
            hypervolume: of that front.
            trials_done: rows so far, of earlier runs too.
            seconds_left: of the job's minutes; None where it has no such limit.
        """

    def on_note(self, text: str) -> None:
        """Anything worth saying."""


class Silent:
    """The observer where nobody watches."""

    def on_start(self, total: int) -> None:
        """Nothing."""

    def on_baseline(self, row: Row) -> None:
        """Nothing."""

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Nothing."""

    def on_note(self, text: str) -> None:
        """Nothing."""


class Steps:
    """Tells an observer of each new step of a long job once, whatever its fraction."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._last = ""

    def __call__(self, fraction: float, text: str = "") -> None:
        """A progress callback: the finished fraction of the step that ``text`` names."""
        del fraction
        if text and text != self._last:
            self._last = text
            self._observer.on_note(text)

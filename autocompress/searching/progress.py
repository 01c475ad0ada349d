"""Observers: what a search tells whoever watches it; the command line draws it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from autocompress.results import Row

log = logging.getLogger("autocompress.search")

PROGRESS_SECONDS = 0.25
"""Between two words on how far a step is."""


class Observer(Protocol):
    """Watches a search, in the process that runs it."""

    def on_start(self, total: int) -> None:
        """The first trial is about to run; ``total`` is the budget, with trials of earlier runs."""

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

    def on_progress(self, fraction: float, text: str) -> None:
        """How far (0 to 1) the step is that ``text`` names: training the baseline, for example."""


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

    def on_progress(self, fraction: float, text: str) -> None:
        """Nothing."""


class Unbreakable:
    """Passes everything on to an observer that may fail to print.

    No search ends because a terminal is closed or cannot show a character. Other errors of an
    observer are raised.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._is_logged = False

    def on_start(self, total: int) -> None:
        """See :class:`Observer`."""
        with self._guarded():
            self._observer.on_start(total)

    def on_baseline(self, row: Row) -> None:
        """See :class:`Observer`."""
        with self._guarded():
            self._observer.on_baseline(row)

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """See :class:`Observer`."""
        with self._guarded():
            self._observer.on_trial(row, front_rows, hypervolume, trials_done, seconds_left)

    def on_note(self, text: str) -> None:
        """See :class:`Observer`."""
        with self._guarded():
            self._observer.on_note(text)

    def on_progress(self, fraction: float, text: str) -> None:
        """See :class:`Observer`."""
        with self._guarded():
            self._observer.on_progress(fraction, text)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeError) as error:
            self._give_up(error)
        except SystemExit as ended:  # rich ends the process where a pipe is closed
            if not isinstance(ended.__context__, BrokenPipeError):
                raise
            self._give_up(ended.__context__)

    def _give_up(self, error: Exception) -> None:
        if not self._is_logged:
            log.warning("progress cannot be printed (%s: %s); the search continues", type(error).__name__, error)
        self._is_logged = True


class Steps:
    """Tells an observer of each step, and several times a second how far it is."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._last = ""
        self._told = 0.0

    def __call__(self, fraction: float, text: str = "") -> None:
        """The finished fraction, 0 to 1, of the step that ``text`` names."""
        is_new = bool(text) and text != self._last
        if is_new:
            self._last = text
            self._observer.on_note(text)
        now = time.monotonic()
        if is_new or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._observer.on_progress(fraction, text or self._last)

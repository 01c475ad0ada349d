"""Observers: the interface by which a search reports its progress."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from autocompress.report import words
from autocompress.results import Row

log = logging.getLogger("autocompress.search")

PROGRESS_SECONDS = 0.25
"""Seconds between two reports of the progress of a step."""
LONG_STEP_S, SAY_EVERY_S = 5.0, 30.0
"""A log mentions a step after the first number of seconds, and again at intervals of the second.

If it was mentioned, it is mentioned at its end, too.
"""
_NUMBERS = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Observer(Protocol):
    """Watches a search, in the process that runs it."""

    def on_start(self, total: int) -> None:
        """The first trial is about to run; ``total`` is the budget, with trials of earlier runs."""

    def on_baseline(self, row: Row) -> None:
        """The row of the baseline is known."""

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """A trial has finished.

        Args:
            row: the columns of trials.csv, and ``label``.
            front_rows: the front so far, the most accurate first.
            hypervolume: hypervolume of that front.
            trials_done: rows so far, with those of earlier runs.
            seconds_left: seconds until the time limit of the job; None if it has none.
        """

    def on_note(self, text: str) -> None:
        """A note for the user."""

    def on_progress(self, fraction: float, text: str) -> None:
        """Progress (0 to 1) of the step ``text``, for example training the baseline."""


class Silent:
    """An observer that ignores everything."""

    def on_start(self, total: int) -> None:
        """Does nothing."""

    def on_baseline(self, row: Row) -> None:
        """Does nothing."""

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Does nothing."""

    def on_note(self, text: str) -> None:
        """Does nothing."""

    def on_progress(self, fraction: float, text: str) -> None:
        """Does nothing."""


class Unbreakable:
    """Forwards everything to an observer, and ignores errors of printing.

    A search must not end because a terminal is closed or cannot show a character. Other errors of
    an observer are raised.
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


def same_step(text: str, other: str) -> bool:
    """Whether two texts are about one step: they only differ in numbers, as of an epoch."""
    return _NUMBERS.sub("", text) == _NUMBERS.sub("", other)


def is_another(before: tuple[float, str], fraction: float, text: str) -> bool:
    """Whether another step begins after ``before``, the last fraction and text.

    A training after another one has the same texts, so a smaller fraction begins a step, too.
    """
    return not same_step(text, before[1]) or fraction < before[0]


class Steps:
    """Reports the progress of steps to an observer, several times per second.

    Each step begins with a note. The epochs of a training are one step (:func:`is_another`).
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._last = 0.0, ""
        self._told = 0.0

    def __call__(self, fraction: float, text: str = "") -> None:
        """Reports the finished fraction, 0 to 1, of the step ``text``."""
        text = text or self._last[1]
        is_new, is_end = is_another(self._last, fraction, text), fraction >= 1 > self._last[0]
        self._last = fraction, text
        if is_new:
            self._observer.on_note(text)
        now = time.monotonic()
        if is_new or is_end or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._observer.on_progress(fraction, text)


class Step:
    """The current step of a search: when it began, and the expected time left.

    A step may be one of several that share a fraction. So the pace is that of the fraction since
    the step began. The epochs of a training are one step (:func:`is_another`).

    Args:
        clock: returns seconds; ``time.monotonic`` by default.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self._last = 0.0, ""
        self._began, self._said, self._first = 0.0, 0.0, 0.0
        self._is_open = False

    def begin(self, fraction: float, text: str) -> None:
        """Starts the clock if another step begins."""
        if is_another(self._last, fraction, text):
            self._began, self._first, self._is_open = self._clock(), fraction, False
            self._said = self._began + LONG_STEP_S - SAY_EVERY_S
        self._last = fraction, text

    def line(self, fraction: float, text: str) -> str:
        """A line to print after five seconds, then at intervals, and at the end; else empty."""
        self.begin(fraction, text)
        return f"{text}: {fraction:.0%}{self.left(fraction)}" if self._is_due(fraction) else ""

    def _is_due(self, fraction: float) -> bool:
        now = self._clock()
        if fraction >= 1:
            is_last, self._is_open = self._is_open, False
            return is_last
        if now - self._said < SAY_EVERY_S:
            return False
        self._said, self._is_open = now, True
        return True

    def left(self, fraction: float) -> str:
        """``, 12 s left`` at the pace so far; empty while it is unknown."""
        spent, done = self._clock() - self._began, fraction - self._first
        if not 0 < fraction < 1 or done <= 0 or spent < 1:
            return ""
        return f", {words.duration(spent * (1 - fraction) / done)} left"

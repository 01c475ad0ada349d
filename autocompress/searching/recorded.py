"""An observer that writes status.json and log.txt, and passes everything on to another one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from autocompress.files import kept_if_possible
from autocompress.report.lines import baseline_words, trial_words
from autocompress.results import COLUMNS, Row
from autocompress.results.status import OVER, STOPPED, Status, write_status
from autocompress.searching.progress import Observer, Step, same_step

log = logging.getLogger("autocompress.search")
EVERY_S = 1.0
"""Minimum seconds between two writes of the file, except for a new phase."""

UnderWay = Callable[[], Sequence[Mapping[str, Any]]]


class Recorded:
    """Records the progress of a search, then passes it on. Several threads may call it.

    Args:
        observer: the other observer.
        folder: ``results/<name>``.
        workers: number of processes that try recipes.
        clock: returns seconds.
    """

    def __init__(
        self, observer: Observer, folder: Path, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer, self._folder, self._clock = observer, folder, clock
        self._status = Status(workers=workers)
        self._not_before = -1.0
        self._began = clock()
        self._done_before: int | None = None
        self._met = set[str]()
        self._logged = Step(clock)
        self._lock = threading.RLock()
        self.under_way: UnderWay = tuple
        """Returns the recipes that are being tried."""
        self.phase("preparing")

    def phase(self, name: str, step: str = "") -> None:
        """Begins another phase, and writes the file at once."""
        with self._lock:
            self._status = replace(self._status, phase=name, step=step, fraction=None, seconds_left=None, note="")
            self._write(at_once=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._status.phase != OVER:
            self.phase(STOPPED)

    def on_start(self, total: int) -> None:
        """The first trial is about to run."""
        with self._lock:
            self._began = self._clock()
            self._status = replace(self._status, total=total)
            self.phase("searching")
        self._observer.on_start(total)

    def on_baseline(self, row: Row) -> None:
        """The row of the baseline is known."""
        log.info("baseline: %s", baseline_words(row))
        with self._lock:
            self._status = replace(self._status, baseline={name: row.get(name) for name in COLUMNS})
        self._observer.on_baseline(row)

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """A trial has finished."""
        log.info("[%d/%d] %s", trials_done, self._status.total, trial_words(row))
        with self._lock:
            self.drop_met([row])
            self._status = replace(
                self._status,
                trials=trials_done,
                front=len(front_rows),
                hypervolume=hypervolume,
                seconds_left=self._left(trials_done, seconds_left),
                note="",  # a note tells of the work since the last trial
            )
            self._write()
        self._observer.on_trial(row, front_rows, hypervolume, trials_done, seconds_left)

    def stands(self, about: str, text: str) -> None:
        """Keeps a note in the status, in the place of an earlier one about the same.

        A note about a constraint, named by its quantity, is dropped when a trial meets it, and not
        kept if a trial has met it.
        """
        with self._lock:
            if about not in self._met:
                self._status = replace(self._status, standing={**self._status.standing, about: text})

    def drop_met(self, rows: Iterable[Row]) -> None:
        """Drops the notes about constraints that a trial of ``rows`` meets, also later ones."""
        with self._lock:
            for row in rows:
                self._met.update(name for name, beyond in (row.get("excess") or {}).items() if _is_met(beyond))
            kept = {about: text for about, text in self._status.standing.items() if about not in self._met}
            self._status = replace(self._status, standing=kept)

    def on_note(self, text: str) -> None:
        """A note for the user."""
        log.info("%s", text)
        with self._lock:
            self._status = replace(self._status, note=text)
            self._write()
        self._observer.on_note(text)

    def on_progress(self, fraction: float, text: str) -> None:
        """Progress of a step."""
        with self._lock:
            if line := self._logged.line(fraction, text):
                log.info("%s", line)
            note = "" if same_step(self._status.note, text) else self._status.note
            self._status = replace(self._status, step=text, fraction=round(fraction, 4), note=note)
            self._write()
        self._observer.on_progress(fraction, text)

    def _left(self, trials_done: int, seconds_left: float | None) -> float:
        """Expected seconds left at the pace so far, limited by the job's minutes."""
        if self._done_before is None:
            self._done_before = trials_done - 1
        pace = (self._clock() - self._began) / max(1, trials_done - self._done_before)
        expected = pace * max(0, self._status.total - trials_done)
        return round(expected if seconds_left is None else min(expected, seconds_left), 1)

    def _write(self, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and now < self._not_before:
            return
        self._not_before = now + EVERY_S
        self._status = replace(self._status, under_way=tuple(self.under_way()), updated=time.time())
        with kept_if_possible(self._folder):
            write_status(self._folder, self._status)


def _is_met(beyond: float | None) -> bool:
    """Whether a trial meets a bound, given its distance beyond it; False if that is not known."""
    return beyond is not None and beyond <= 0

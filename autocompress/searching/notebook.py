"""The progress of a search in a notebook: one line that is written again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from autocompress.report import words
from autocompress.results import Row
from autocompress.searching.progress import Observer, Silent

LONGEST = 110
"""Maximum length of the line."""


@contextmanager
def watched(observer: Observer | None) -> Iterator[Observer]:
    """The observer of a search: ``observer``, else a line in a notebook and nothing elsewhere."""
    if observer is not None or "ipykernel" not in sys.modules:
        yield observer or Silent()
        return
    line = Line()
    yield line
    line.end()


class Line(Silent):
    """Writes the current step, or the trials so far, over the line before."""

    def __init__(self) -> None:
        self._total = 0
        self._began = 0.0
        self._done = 0
        self._done_here = 0
        self._shown = 0

    def on_start(self, total: int) -> None:
        """The first trial is about to run."""
        self._total, self._began = total, time.monotonic()
        self._write(f"at most {total} trials")

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Counts the trials, and says how the last one ended."""
        self._done = trials_done
        self._done_here += 1
        left = (time.monotonic() - self._began) / self._done_here * max(0, self._total - trials_done)
        left = left if seconds_left is None else min(left, seconds_left)
        models = f"front of {len(front_rows)} model{'s' * (len(front_rows) != 1)}, hypervolume {hypervolume:.3f}"
        last = f"trial {row.get('trial')} {row.get('status')}"
        self._write(f"{trials_done} of {self._total} trials; {last}; {models}; about {words.duration(left)} left")

    def on_note(self, text: str) -> None:
        """Shows a note until the next message."""
        self._write(text)

    def on_progress(self, fraction: float, text: str) -> None:
        """Shows how far the step is."""
        self._write(f"{text}: {fraction:.0%}")

    def end(self) -> None:
        """The search is closed."""
        self._write(f"{self._done} trial{'s' * (self._done != 1)} done" if self._done_here else "done")
        print()

    def _write(self, text: str) -> None:
        text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
        print(f"\r{text.ljust(self._shown)}", end="", flush=True)
        self._shown = len(text)

"""Follows a search from another terminal, for ``autocompress watch``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autocompress.cli import output
from autocompress.cli.output import say
from autocompress.cli.progress import front_table
from autocompress.report import live
from autocompress.results import TRIALS_FILE, SearchResult, read
from autocompress.results.sofar import baseline_so_far, models_so_far
from autocompress.results.status import OVER, Status, read_status
from autocompress.searching.progress import SAY_EVERY_S


def follow(folder: Path, *, once: bool, every: float) -> None:
    """Shows the progress of the search in ``folder`` until it ends, or once.

    Args:
        folder: the folder of the run.
        once: show the progress only once.
        every: seconds between two updates.

    Raises:
        UserError: if ``folder`` is not a run.
    """
    console = Console()
    watched = Watched(folder)
    if once or not watched.is_going_on:
        console.print(watched.picture(console.width))
        return
    if not console.is_terminal:
        _lines(watched, console, every)
        return
    with Live(watched.picture(console.width), console=console, auto_refresh=False) as screen:
        while watched.is_going_on and not output.is_closed():
            time.sleep(every)
            watched.look()
            screen.update(watched.picture(console.width), refresh=True)


def _lines(watched: Watched, console: Console, every: float) -> None:
    """Prints a line for each phase, trial and note; for other changes, one at intervals."""
    last, known, not_before = "", None, 0.0
    while True:
        line = "; ".join(live.sentences(watched.result, watched.status))
        if line != last and (watched.events != known or time.monotonic() >= not_before):
            say(console, line)
            last, known, not_before = line, watched.events, time.monotonic() + SAY_EVERY_S
        if not watched.is_going_on or output.is_closed():
            return
        time.sleep(every)
        watched.look()


class Watched:
    """The state of a run. Its table is read again when the file has changed.

    Args:
        folder: folder of the run.

    Raises:
        UserError: if it is not a run, or one of its files is broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: Any = None
        self.result: SearchResult = read(folder)
        self.status: Status | None = None
        self.look()

    @property
    def is_going_on(self) -> bool:
        """Whether the search is still running."""
        return self.status is not None and self.status.phase != OVER and self.status.is_running is not False

    @property
    def events(self) -> tuple[Any, ...]:
        """What changes with a phase, a trial and a note, but not with the progress of a step."""
        now = self.status or Status()
        return now.phase, now.trials, now.note, now.standing, len(self.result.trials), self.is_going_on

    def look(self) -> None:
        """Reads changed files."""
        self.status = read_status(self._folder)
        now = _state(self._folder / TRIALS_FILE), self.is_going_on
        if now != self._seen:
            self._seen, self.result = now, read(self._folder)

    def picture(self, width: int) -> Group:
        """Progress bar, sentences and the current front."""
        parts: list[Any] = []
        if self.status is not None and self.status.total and self.is_going_on:
            bar = Table.grid()
            bar.add_row(ProgressBar(total=self.status.total, completed=self.status.trials, width=min(width, 60)))
            parts.append(bar)
        parts += [Text(text) for text in live.sentences(self.result, self.status)]
        models = models_so_far(self.result, self.status)
        if len(models):
            title = "front so far" if self.result.front.empty else "the front"
            parts.append(front_table(plain_rows(models), width, baseline_so_far(self.result, self.status), title))
        return Group(*parts)


def plain_rows(models: Any) -> list[dict[str, Any]]:
    """The rows of a frame, with None for missing figures."""
    known = models.astype(object).where(models.notna(), None)
    return [dict(row) for row in known.to_dict("records")]


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size

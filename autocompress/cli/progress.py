"""A search as it happens: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autocompress.report import words

Row = Mapping[str, Any]
MOST_ROWS = 12
"""Rows of the front that a terminal shows while it searches."""
FIGURES_WIDTH = 60
"""Columns of the terminal that the figures take."""


class Lines:
    """Tells each event in a line: for logs, pipes and continuous integration."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._began = 0.0
        self._done_here = 0

    def on_start(self, total: int) -> None:
        """The first trial is about to run; ``total`` counts trials of earlier runs too."""
        self._total, self._began = total, time.monotonic()
        self._say(f"searching: {total} trials")

    def on_baseline(self, row: Row) -> None:
        """The baseline's row is known."""
        self._say(f"baseline: {baseline_words(row)}")

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """A trial has its row."""
        left = self._time_left(trials_done, seconds_left)
        state = f"[{trials_done}/{self._total}] front of {len(front_rows)}, hypervolume {hypervolume:.3f}, {left}"
        self._say(f"{state}: {trial_words(row)}")

    def on_note(self, text: str) -> None:
        """Anything worth saying."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self, trials_done: int, seconds_left: float | None) -> str:
        """At the pace so far, and no more than the job's minutes leave."""
        self._done_here += 1
        pace = (time.monotonic() - self._began) / self._done_here
        expected = pace * max(0, self._total - trials_done)
        return f"{words.duration(expected if seconds_left is None else min(expected, seconds_left))} left"


class Screen(Lines):
    """Shows how far the search is and the front so far, redrawn in place."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__(console)
        self._live = live

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Redraws bar, front and the trial's line."""
        bar = ProgressBar(total=max(self._total, 1), completed=trials_done, width=30)
        left = self._time_left(trials_done, seconds_left)
        head = Table.grid(padding=(0, 2))
        head.add_row(f"{trials_done} of {self._total} trials", bar, f"hypervolume {hypervolume:.3f}", left)
        last = Text(f"last: {trial_words(row)}", style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(head, front_table(front_rows, self._console.width), last))


@contextmanager
def watching(console: Console) -> Iterator[Lines]:
    """The observer for this console, live where it is a terminal."""
    if not console.is_terminal:
        yield Lines(console)
        return
    # redirect off: the terminal's own stderr must show a traceback as it is.
    with Live(console=console, refresh_per_second=4, redirect_stderr=False) as live:
        yield Screen(console, live)


def front_table(rows: Sequence[Row], width: int) -> Table:
    """The front so far, the most accurate first."""
    table = Table(title="front so far", title_justify="left")
    for heading in ("trial", "accuracy", "change", "latency", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    # A column that may not wrap takes all the room it wants, and recipes want much.
    table.add_column("recipe", no_wrap=True, overflow="ellipsis", max_width=max(10, width - FIGURES_WIDTH))
    for row in rows[:MOST_ROWS]:
        table.add_row(*map(Text, (str(row.get("trial")), *_figures(row), words.recipe(row.get("recipe") or {}))))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} more"
    return table


def _figures(row: Row) -> tuple[str, str, str, str]:
    drop = row.get("accuracy_drop")
    return (
        words.percent(row.get("accuracy")),
        words.points(None if drop is None else -drop),
        words.ratio(row.get("latency_ratio")),
        words.size(row.get("size_bytes")),
    )


def trial_words(row: Row) -> str:
    """A trial in a line: ``trial 7 complete: 97.20 %, −0.30, 0.41×, 1.2 MB; ghost ratio 2 in layer3``."""
    head = f"trial {row.get('trial')} {row.get('status')}"
    if row.get("status") != "complete":
        return f"{head}: {row.get('reason') or 'no reason given'}"
    return f"{head}: {', '.join(_figures(row))}; {words.recipe(row.get('recipe') or {})}"


def baseline_words(row: Row) -> str:
    """The baseline in a line."""
    figures = [
        words.percent(row.get("accuracy")),
        words.size(row.get("size_bytes")),
        f"{words.count(row.get('params'))} parameters",
        f"{words.count(row.get('macs'))} MACs",
    ]
    return ", ".join(figures)

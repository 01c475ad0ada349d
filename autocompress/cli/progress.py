"""The progress of a search: a live table on a terminal, one line for each trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autocompress.report import words
from autocompress.report.lines import Row, baseline_words, figures, trial_words
from autocompress.searching.progress import Silent, Step, Steps

MOST_ROWS = 12
"""Maximum number of rows of the front on a terminal during a search."""
FIGURES_WIDTH, LEAST_RECIPE = 60, 10
"""Columns of the terminal for the figures, and least columns for a recipe."""


class Lines:
    """Prints each event as one line: for logs, pipes and continuous integration."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._began = 0.0
        self._done_here = 0
        self._step = Step()

    def on_start(self, total: int) -> None:
        """Called before the first trial; ``total`` includes trials of earlier runs."""
        self._total, self._began = total, time.monotonic()
        self._say(f"searching: {total} trials")

    def on_baseline(self, row: Row) -> None:
        """Called when the baseline's row is known."""
        self._say(f"baseline: {baseline_words(row)}")

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Called when a trial has its row."""
        left = self._time_left(trials_done, seconds_left)
        models = f"front of {len(front_rows)} model{'s' * (len(front_rows) != 1)}"
        state = f"[{trials_done}/{self._total}] {models}, hypervolume {hypervolume:.3f}, {left}"
        self._say(f"{state}; {trial_words(row)}")

    def on_note(self, text: str) -> None:
        """Prints a note."""
        self._say(text)

    def on_progress(self, fraction: float, text: str) -> None:
        """Prints the progress of a step that takes over five seconds, at most twice a minute."""
        if line := self._step.line(fraction, text):
            self._say(line)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self, trials_done: int, seconds_left: float | None) -> str:
        """The time left at the pace so far, at most the time left in the budget."""
        self._done_here += 1
        pace = (time.monotonic() - self._began) / self._done_here
        expected = pace * max(0, self._total - trials_done)
        return f"{words.duration(expected if seconds_left is None else min(expected, seconds_left))} left"


class Screen(Lines):
    """Shows the progress and the current front of the search, redrawn in place."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__(console)
        self._live = live
        self._baseline: Row | None = None
        self._shown: list[ConsoleRenderable] = []

    def on_baseline(self, row: Row) -> None:
        """Shows the baseline as the first row of the front."""
        super().on_baseline(row)
        self._baseline = row

    def on_start(self, total: int) -> None:
        """Called before the first trial, when the preparation is over."""
        super().on_start(total)
        self._draw()

    def on_progress(self, fraction: float, text: str) -> None:
        """Draws the bar of the step below the front."""
        self._step.begin(fraction, text)
        self._live.update(Group(*self._shown, step_bar(fraction, text, self._step.left(fraction))))

    def on_note(self, text: str) -> None:
        """Prints the note above the live display, and removes the bar of the last step."""
        super().on_note(text)
        self._draw()

    def _draw(self, *shown: ConsoleRenderable) -> None:
        self._shown = list(shown) or self._shown
        self._live.update(Group(*self._shown))

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Redraws the bar, the front and the line of the trial."""
        bar = ProgressBar(total=max(self._total, 1), completed=trials_done, width=30)
        left = self._time_left(trials_done, seconds_left)
        head = Table.grid(padding=(0, 2))
        head.add_row(f"{trials_done} of {self._total} trials", bar, f"hypervolume {hypervolume:.3f}", left)
        last = Text(f"last: {trial_words(row)}", style="dim", no_wrap=True, overflow="ellipsis")
        self._draw(head, front_table(front_rows, self._console.width, self._baseline), last)


def step_bar(fraction: float, text: str, left: str = "") -> Table:
    """The progress of a step, on one line."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(Text(text), ProgressBar(total=1.0, completed=fraction, width=30), f"{fraction:.0%}{left}")
    return bar


@contextmanager
def waiting(console: Console) -> Iterator[Callable[[float, str], None]]:
    """A progress callback for long work outside a search: a bar if there is a terminal."""
    if not console.is_terminal:
        yield Steps(Silent())
        return
    with Live(console=console, refresh_per_second=4, redirect_stderr=False, transient=True) as live:

        def draw(fraction: float, text: str = "") -> None:
            live.update(step_bar(fraction, text))

        yield draw


@contextmanager
def watching(console: Console) -> Iterator[Lines]:
    """The observer for this console: live if it is a terminal."""
    if not console.is_terminal:
        yield Lines(console)
        return
    # redirect off: the terminal's own stderr must show a traceback as it is.
    with Live(console=console, refresh_per_second=4, redirect_stderr=False) as live:
        yield Screen(console, live)


def front_table(rows: Sequence[Row], width: int, baseline: Row | None = None, title: str = "front so far") -> Table:
    """A front: the baseline, if it is known, then models by accuracy on validation, best first."""
    is_narrow = width < FIGURES_WIDTH + LEAST_RECIPE
    of = "validation" if (baseline or {}).get("agreement") is None else "agreement"
    table = Table(title=f"{title}, by {of}", title_justify="left")
    if is_narrow:
        table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    base = baseline or {}
    accuracy = str(base.get("metric") or "accuracy") if base.get("agreement") is None else "agreement"
    for heading in ("trial", accuracy, "change", "latency", *([] if is_narrow else ["size"])):
        # If there is too little room, figures continue in the next line; none is cut off.
        table.add_column(heading, justify="right", no_wrap=not is_narrow, overflow="fold")
    if not is_narrow:
        # A column that may not wrap takes the full width of its text, and recipes are long.
        table.add_column("recipe", no_wrap=True, overflow="ellipsis", max_width=max(10, width - FIGURES_WIDTH))
    shown = len(table.columns)
    if baseline is not None:
        cells = ("baseline", *figures(baseline), "uncompressed")
        table.add_row(*map(Text, cells[:shown]), style="dim")
    for row in rows[:MOST_ROWS]:
        cells = (str(row.get("trial")), *figures(row), words.recipe(row.get("recipe") or {}))
        table.add_row(*map(Text, cells[:shown]))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} more"
    return table

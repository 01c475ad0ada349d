"""A search as it happens: a live table on a terminal, a line a trial elsewhere."""

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
from autocompress.searching.progress import Silent, Steps

MOST_ROWS = 12
"""Rows of the front that a terminal shows while it searches."""
LONG_STEP_S, SAY_EVERY_S = 5.0, 30.0
"""Steps that take longer are told of in a log, so often."""
FIGURES_WIDTH, LEAST_RECIPE = 60, 10
"""Columns of the terminal that the figures take, and that a recipe needs."""


class Lines:
    """Tells each event in a line: for logs, pipes and continuous integration."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._began = 0.0
        self._done_here = 0
        self._step = Step()

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

    def on_progress(self, fraction: float, text: str) -> None:
        """Says how far a step is that takes longer than five seconds, twice a minute at most."""
        if self._step.is_due(fraction, text):
            self._say(f"{text}: {fraction:.0%}{self._step.left(fraction)}")

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
        self._baseline: Row | None = None
        self._shown: list[ConsoleRenderable] = []

    def on_baseline(self, row: Row) -> None:
        """The baseline leads the front from now on."""
        super().on_baseline(row)
        self._baseline = row

    def on_start(self, total: int) -> None:
        """What came before the search is over."""
        super().on_start(total)
        self._draw()

    def on_progress(self, fraction: float, text: str) -> None:
        """Draws the step's bar below what is shown."""
        self._step.begin(text)
        self._live.update(Group(*self._shown, step_bar(fraction, text, self._step.left(fraction))))

    def on_note(self, text: str) -> None:
        """Says it above what is shown, and drops the bar of the step before."""
        super().on_note(text)
        self._draw()

    def _draw(self, *shown: ConsoleRenderable) -> None:
        self._shown = list(shown) or self._shown
        self._live.update(Group(*self._shown))

    def on_trial(
        self, row: Row, front_rows: Sequence[Row], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        """Redraws bar, front and the trial's line."""
        bar = ProgressBar(total=max(self._total, 1), completed=trials_done, width=30)
        left = self._time_left(trials_done, seconds_left)
        head = Table.grid(padding=(0, 2))
        head.add_row(f"{trials_done} of {self._total} trials", bar, f"hypervolume {hypervolume:.3f}", left)
        last = Text(f"last: {trial_words(row)}", style="dim", no_wrap=True, overflow="ellipsis")
        self._draw(head, front_table(front_rows, self._console.width, self._baseline), last)


class Step:
    """The step that a search is at: since when, and how long it will take."""

    def __init__(self) -> None:
        self._text, self._began, self._said = "", 0.0, 0.0

    def begin(self, text: str) -> None:
        """Starts the clock where this is another step."""
        if text != self._text:
            self._text, self._began = text, time.monotonic()
            self._said = self._began + LONG_STEP_S - SAY_EVERY_S

    def is_due(self, fraction: float, text: str) -> bool:
        """Whether it is worth a line: it has taken five seconds, and was not told of lately."""
        self.begin(text)
        now = time.monotonic()
        if fraction >= 1 or now - self._said < SAY_EVERY_S:
            return False
        self._said = now
        return True

    def left(self, fraction: float) -> str:
        """``, 0:12 left`` at the pace so far; empty while nobody can tell."""
        spent = time.monotonic() - self._began
        if not 0 < fraction < 1 or spent < 1:
            return ""
        return f", {words.duration(spent * (1 - fraction) / fraction)} left"


def step_bar(fraction: float, text: str, left: str = "") -> Table:
    """How far a step is, on one line."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(Text(text), ProgressBar(total=1.0, completed=fraction, width=30), f"{fraction:.0%}{left}")
    return bar


@contextmanager
def waiting(console: Console) -> Iterator[Callable[[float, str], None]]:
    """A progress callback for long work outside a search: a bar where there is a terminal."""
    if not console.is_terminal:
        yield Steps(Silent())
        return
    with Live(console=console, refresh_per_second=4, redirect_stderr=False, transient=True) as live:

        def draw(fraction: float, text: str = "") -> None:
            live.update(step_bar(fraction, text))

        yield draw


@contextmanager
def watching(console: Console) -> Iterator[Lines]:
    """The observer for this console, live where it is a terminal."""
    if not console.is_terminal:
        yield Lines(console)
        return
    # redirect off: the terminal's own stderr must show a traceback as it is.
    with Live(console=console, refresh_per_second=4, redirect_stderr=False) as live:
        yield Screen(console, live)


def front_table(rows: Sequence[Row], width: int, baseline: Row | None = None) -> Table:
    """The front so far: the baseline, where it is known, then the most accurate first."""
    is_narrow = width < FIGURES_WIDTH + LEAST_RECIPE
    table = Table(title="front so far", title_justify="left")
    if is_narrow:
        table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    base = baseline or {}
    accuracy = str(base.get("metric") or "accuracy") if base.get("agreement") is None else "agreement"
    for heading in ("trial", accuracy, "change", "latency", *([] if is_narrow else ["size"])):
        # Where there is too little room, figures go on in the next line: none is cut.
        table.add_column(heading, justify="right", no_wrap=not is_narrow, overflow="fold")
    if not is_narrow:
        # A column that may not wrap takes all the room it wants, and recipes want much.
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

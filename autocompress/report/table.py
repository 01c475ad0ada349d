"""The front as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autocompress.report import datafree, view, words
from autocompress.report.markdown import plain
from autocompress.report.metric import is_accuracy, metric
from autocompress.results import SearchResult

FULL_WIDTH = 78
"""Minimum number of columns of a terminal for all figures."""
DECIDE = ("trial", "change", "latency", "95 %")
"""The figures on a narrow terminal."""


def front_table(result: SearchResult, width: int = FULL_WIDTH) -> Group:
    """A table of the front's figures, with its recipes below, to print with rich.

    The change is that on test images, or on validation images if there are no test images.

    The baseline is first, then models by accuracy. The recommended model is bold.

    Args:
        result: the run.
        width: columns of the terminal. With fewer than ``FULL_WIDTH``, only the change of accuracy
            and the latency are shown. Below 40, cells are wrapped.
    """
    models = view.front_models(result, intervals_of_accuracy=False)  # scipy takes half a second to import
    # Here and below, Text is used, because rich would read [brackets] in a str as markup.
    of = "" if is_accuracy(result) else f" (val and test: {metric(result)})"
    title = Text(f"{plain(result.job.get('name', result.folder.name))}: the front{of}", style="bold")
    if not models:
        return Group(title, Text("none yet", style="dim"))
    with_energy = any(model.energy_ratio != words.MISSING for model in models)
    # A tenth column fits only with less space between columns.
    padding = (0, 0 if with_energy else 1)
    figures = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=padding)
    by_agreement = datafree.is_by_agreement(result)
    judged = "agree %" if by_agreement else "val %"
    headings = ["trial", judged, "test %", "change", "latency", "95 %", "ms", "size", "MACs"]
    is_narrow = width < FULL_WIDTH
    is_tested = any(model.test_accuracy != words.MISSING for model in models)
    change_of = {"change": f"{'test' if is_tested else judged.removesuffix(' %')}\nchange"}
    for heading in DECIDE if is_narrow else headings + ["energy"] * with_energy:
        figures.add_column(change_of.get(heading, heading), justify="right", vertical="bottom", overflow="fold")
    recipes = Table.grid(padding=(0, 2))
    recipes.add_column(justify="right", no_wrap=True)
    recipes.add_column(overflow="fold")
    for model in models:
        style = "bold" if model.recommended else "dim" if model.is_baseline else ""
        cells = [model.trial, model.accuracy, model.test_accuracy, model.test_change, model.latency]
        if not is_tested:
            cells[3] = model.change
        cells += [model.latency_interval.replace(" to ", "–").replace("×", ""), model.latency_ms, model.size]
        cells += [model.macs] + [model.energy_ratio] * with_energy
        if is_narrow:
            cells = [cells[headings.index(heading)] for heading in DECIDE]
        figures.add_row(*(Text(cell.removesuffix(" %").removesuffix(" ms")) for cell in cells), style=style)
        if not model.is_baseline:
            misses = f"misses {model.misses}" if model.misses else ""
            notes = [note for note in ("recommended" * model.recommended, "noisy" * model.noisy, misses) if note]
            text = f"{', '.join(notes)}: {model.recipe}" if notes else model.recipe
            recipes.add_row(Text(model.trial), Text(text), style=style)
    return Group(title, figures, Padding(recipes, (0, 0, 1, 0)))

"""Implements ``autocompress search --dry-run``: shows a job, and whether its bounds can be met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.cli.output import print_table
from autocompress.job import Job
from autocompress.memory import out_of_memory_told
from autocompress.opened.feasibility import UNCOMPRESSED, CheapestCandidate, feasibility
from autocompress.opened.job import OpenedJob
from autocompress.recipes.parameters import space_size
from autocompress.report import paying, words
from autocompress.searching.measurer import Measurer

MEASURED_S = 0.3
"""Seconds of latency measurement for each candidate."""


def show(job: Job, console: Console) -> None:
    """Prints everything that can be known without training.

    If the search would train the baseline first, the baseline has random weights here, because
    costs do not depend on weights. No images are synthesised, and no method prepares anything.
    """
    torch.set_num_threads(1)  # nothing is trained, and two processes build files
    opened = OpenedJob.dry(job)
    # After opening: an error is not below a long job.
    console.print(job.to_yaml(), markup=False, highlight=False, soft_wrap=True)
    parameters = opened.parameters()
    offered = opened.offered()
    lines = [f"methods: {words.join(offered) if offered else 'none applies'}"]
    if others := [method.name for method in opened.methods if method.name not in offered]:
        lines.append(f"  not used, since the space does not name them: {', '.join(others)}")
    lines += [f"  {name} is refused: {'; '.join(reasons)}" for name, reasons in opened.refused.items()]
    lines.append(f"images: {_images(opened)}")
    lines += [f"  {note}" for note in opened.splits.notes]
    lines.append(f"space: {len(parameters)} parameters, at most {space_size(parameters):.3g} recipes")
    lines += [f"  {name}: {parameter.describe()}" for name, parameter in parameters.items()]
    with out_of_memory_told(f"batches of {job.device.batch}"):
        rows = feasibility(opened, Measurer.of(job, opened.device).surely, MEASURED_S)
    lines.append(f"baseline: {_baseline_cost(opened, rows)}")
    lines += paying.lines(opened.placement())
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not rows:
        return
    table = reach_table(rows)
    print_table(console, table)
    for line in [*verdicts(rows), *estimates(rows)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _baseline_cost(opened: OpenedJob, rows: Sequence[CheapestCandidate]) -> str:
    base = opened.baseline
    figures = [words.size(base.size_bytes), f"{words.count(base.params)} parameters", f"{words.count(base.macs)} MACs"]
    # The baseline was measured beside each candidate. The median of these latencies is shown.
    beside = [row.latency_ms / row.latency_ratio for row in rows]
    return ", ".join([words.milliseconds(statistics.median(beside)), *figures] if beside else figures)


def reach_table(rows: Sequence[CheapestCandidate]) -> Table:
    """Returns the lowest costs of each method and of several together, relative to the baseline."""
    title = "the cheapest candidates (nothing is trained)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    has_energy = any(row.energy_ratio is not None for row in rows)
    for heading in ("latency", "95 %", "ms", "size", *(["energy"] if has_energy else []), "MACs", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("out of reach")
    for row in sorted(rows, key=lambda row: row.label != UNCOMPRESSED):
        figures = [words.ratio(row.latency_ratio), f"{row.latency_low:.2f}–{row.latency_high:.2f}"]
        figures += [words.milliseconds(row.latency_ms)]
        ratios = [row.size_ratio, *([row.energy_ratio] if has_energy else []), row.macs_ratio, row.params_ratio]
        figures += [words.ratio(value) for value in ratios]
        missed = [name for name, reached in row.meets.items() if not reached]
        table.add_row(*map(Text, (row.label, *figures, ", ".join(missed))))
    return table


def verdicts(rows: Sequence[CheapestCandidate]) -> list[str]:
    """Returns for each constraint on a cost whether it can be met, and by which methods."""
    sentences = []
    for name in rows[0].meets if rows else ():
        reaching = [row.label for row in rows if row.meets.get(name)]
        if UNCOMPRESSED in reaching:
            sentences.append(f"{name}: met without any compression")
        elif reaching:
            sentences.append(f"{name}: within reach of {words.join(reaching)}")
        else:
            sentences.append(f"{name}: not even the cheapest candidates meet it")
    return sentences


def estimates(rows: Sequence[CheapestCandidate]) -> list[str]:
    """Returns a sentence for each method whose figures are only estimates.

    These are the methods whose structure is decided during the search.
    """
    names = dict.fromkeys(name for row in rows for name in row.estimated)
    return [
        f"{name}: the widths of layers are decided during the search, so its figures are estimates" for name in names
    ]


def _images(opened: OpenedJob) -> str:
    """Describes the data splits, and the data sources if these make the training images."""
    sources = list(opened.space.sources())
    if not sources:
        return opened.splits.describe()
    own = f"; of the user's: {opened.splits.describe()}" if len(opened.splits.val) or len(opened.splits.test) else ""
    return f"no training data; the search makes images with {words.join(sources)}{own}"

"""``autocompress search --dry-run``: the job as resolved, what can act, and whether the wishes are within reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.cli.progress import waiting
from autocompress.compression.feasibility import CheapestCandidate, feasibility
from autocompress.compression.recipe import space_size
from autocompress.compression.workbench import Workbench
from autocompress.job import BaselineConfig, Job
from autocompress.report import words

UNCOMPRESSED = "uncompressed"
"""Label of the candidate on which no method acts."""


def show(job: Job, console: Console) -> None:
    """Prints everything that can be known without training.

    The baseline gets random weights where it would be trained first: cost does not depend on them. Without training
    data the synthetic images are made, since what methods do depends on them; they are kept, and the search finds them.
    """
    console.print(job.to_yaml(), markup=False, highlight=False, soft_wrap=True)
    with waiting(console) as progress:
        bench = Workbench.open(job.model_copy(update={"baseline": BaselineConfig(epochs=0)}), progress)
    parameters = bench.parameters()
    lines = [f"methods: {words.join([method.name for method in bench.methods]) if bench.methods else 'none applies'}"]
    lines += [f"  {name} is refused: {'; '.join(reasons)}" for name, reasons in bench.refused.items()]
    lines.append(f"images: {bench.splits.describe()}")
    lines += [f"  {note}" for note in bench.splits.notes]
    lines.append(f"space: {len(parameters)} parameters, at most {space_size(parameters):.3g} recipes")
    lines += [f"  {name}: {parameter.describe()}" for name, parameter in parameters.items()]
    rows = feasibility(bench)
    lines.append(f"baseline: {_baseline_cost(bench, rows)}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not rows:
        return
    console.print(reach_table(rows))
    for line in verdicts(rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _baseline_cost(bench: Workbench, rows: Sequence[CheapestCandidate]) -> str:
    base = bench.baseline
    figures = [words.size(base.size_bytes), f"{words.count(base.params)} parameters", f"{words.count(base.macs)} MACs"]
    # It was measured beside each candidate; the middle of these is as good a figure as any.
    beside = [row.latency_ms / row.latency_ratio for row in rows]
    return ", ".join([words.milliseconds(statistics.median(beside)), *figures] if beside else figures)


def reach_table(rows: Sequence[CheapestCandidate]) -> Table:
    """The least that each method, and all together, can cost here, against the baseline."""
    table = Table(title="the cheapest candidates (nothing is trained)", title_justify="left")
    table.add_column("method")
    for heading in ("latency", "95 %", "ms", "size", "MACs", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("out of reach")
    for row in sorted(rows, key=lambda row: row.label != UNCOMPRESSED):
        figures = [words.ratio(row.latency_ratio), f"{row.latency_low:.2f}–{row.latency_high:.2f}"]
        figures += [words.milliseconds(row.latency_ms)]
        figures += [words.ratio(value) for value in (row.size_ratio, row.macs_ratio, row.params_ratio)]
        missed = [name for name, reached in row.meets.items() if not reached]
        table.add_row(*map(Text, (row.label, *figures, ", ".join(missed))))
    return table


def verdicts(rows: Sequence[CheapestCandidate]) -> list[str]:
    """For each constraint on a cost, a sentence on whether it can be met at all, and by which methods."""
    sentences = []
    for name in rows[0].meets if rows else ():
        reaching = [row.label for row in rows if row.meets.get(name)]
        if UNCOMPRESSED in reaching:
            sentences.append(f"{name}: met without any compression")
        elif reaching:
            sentences.append(f"{name}: within reach of {words.join(reaching)}")
        else:
            sentences.append(f"{name}: cannot be met, not even by the cheapest candidates")
    return sentences

"""Several runs side by side, as tables for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from autocompress.objectives.quantities import BY_NAME
from autocompress.report import words
from autocompress.report.markdown import plain
from autocompress.report.metric import judged
from autocompress.results.comparison import Compared, Comparison

NAME_WIDTH, VALUE_WIDTH = 24, 60
"""Maximum length of a run's name in a heading, and of a value in a cell."""


def tables(comparison: Comparison) -> Group:
    """The full comparison for a terminal. On a narrow terminal, cells are wrapped."""
    names = [_name(run.name) for run in comparison.runs]
    parts: list[Any] = [_table("runs", ["", *names], _summary(comparison))]
    cost = BY_NAME[comparison.cost].short
    title = f"lowest {cost} at a loss of accuracy ({comparison.split}), as a ratio to each run's own baseline"
    many = len(names) > 2
    levels = [
        [words.drop(points), *map(words.ratio, costs), *([words.ratio(middle)] if many else [])]
        for points, costs, middle in comparison.attainment()
    ]
    parts.append(_table(title, ["at most", *names, *(["median"] if many else [])], levels))
    shares = [[name, *map(_percent, row)] for name, row in zip(names, comparison.dominated(), strict=True)]
    parts.append(_table("share of the column's front that the row's front dominates", ["", *names], shares))
    if comparison.differences:
        rows = [[key, *map(_value, values)] for key, values in comparison.differences]
        parts.append(_table("what differs in jobs, machines and versions", ["key", *names], rows))
    parts += [Text(f"note: {text}", style="yellow") for text in comparison.warnings]
    return Group(*parts)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The full comparison as JSON values; null for missing figures."""
    runs = [
        {
            "run": str(run.result.folder),
            "is_over": run.is_over,
            "trials": dict(run.counts),
            "front": len(run.drops),
            "hypervolume": run.hypervolume,
            "seconds": run.result.summary.get("seconds"),
        }
        for run in comparison.runs
    ]
    levels = [{"points": points, "costs": list(map(_known, costs))} for points, costs, _ in comparison.attainment()]
    return {
        "cost": comparison.cost,
        "split": comparison.split,
        "runs": runs,
        "attainment": levels,
        "dominated": [list(map(_known, row)) for row in comparison.dominated()],
        "differences": dict(comparison.differences),
        "warnings": list(comparison.warnings),
    }


def _summary(comparison: Comparison) -> list[list[str]]:
    runs = comparison.runs
    best = [run.result.recommended() if run.is_over else None for run in runs]
    kind = words.join(dict.fromkeys(judged(run.result) for run in runs))
    lines: list[tuple[str, list[Any]]] = [
        ("search", [_state(run) for run in runs]),
        ("trials", [str(sum(run.counts.values())) for run in runs]),
        *((status, [str(run.counts[status]) for run in runs]) for status in runs[0].counts),
        ("time spent", [words.duration(run.result.summary.get("seconds")) for run in runs]),
        (f"baseline {kind}", [words.percent(run.result.baseline["accuracy"]) for run in runs]),
        ("models on the front", [str(len(run.drops)) for run in runs]),
        ("hypervolume", [f"{run.hypervolume:.3f}" for run in runs]),
        ("recommended trial", [words.MISSING if row is None else str(row["trial"]) for row in best]),
    ]
    lines += [
        (label, [words.MISSING if row is None else write(row[column]) for row in best])
        for label, column, write in (
            ("its latency", "latency_ratio", words.ratio),
            (f"its change of {kind}", "accuracy_drop", lambda drop: words.points(None if pd.isna(drop) else -drop)),
        )
    ]
    return [[label, *cells] for label, cells in lines]


def _state(run: Compared) -> str:
    if not run.is_over:
        return "not over"
    return "interrupted" if run.result.is_interrupted else "over"


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Group:
    """A table below its title, which may be wider than the table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return Group(Text(title, style="bold"), table)


def _name(text: str) -> str:
    """The name of a run on one line; the end of a long path, which distinguishes runs."""
    name = plain(text, 10 * NAME_WIDTH)
    return name if len(name) <= NAME_WIDTH else f"…{name[1 - NAME_WIDTH :]}"


def _percent(share: float) -> str:
    return words.MISSING if pd.isna(share) else f"{share:.0%}"


def _value(value: Any) -> str:
    return words.MISSING if value is None else plain(value, VALUE_WIDTH)


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)

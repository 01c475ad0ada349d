"""A trial and the baseline in one line, for logs, pipes and live tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress.report import words

Row = Mapping[str, Any]


def figures(row: Row) -> tuple[str, str, str, str]:
    """Accuracy, its change, latency and size."""
    drop = row.get("accuracy_drop")
    return (
        words.percent(row.get("accuracy")),
        words.points(None if drop is None else -drop),
        words.ratio(row.get("latency_ratio")),
        words.size(row.get("size_bytes")),
    )


def trial_words(row: Row) -> str:
    """A trial as a line.

    Example: ``trial 7 complete: 97.20 % on validation, −0.30, 0.41×, 1.2 MB; ghost ratio 2``
    """
    head = f"trial {row.get('trial')} {row.get('status')}"
    if row.get("status") != "complete":
        return f"{head}: {row.get('reason') or 'no reason given'}"
    accuracy, *others = figures(row)
    accuracy += " on validation" if row.get("agreement") is None else " agreement"
    return f"{head}: {', '.join([accuracy, *others])}; {words.recipe(row.get('recipe') or {})}"


def baseline_words(row: Row) -> str:
    """The baseline in a line."""
    judged = f"{words.percent(row.get('accuracy'))}{_named(row)}"
    figures = [
        judged if row.get("agreement") is None else "the reference for agreement",
        words.size(row.get("size_bytes")),
        f"{words.count(row.get('params'))} parameters",
        f"{words.count(row.get('macs'))} MACs",
    ]
    return ", ".join(figures)


def _named(row: Row) -> str:
    """The name of the metric behind its value, where it is not accuracy."""
    return f" {row['metric']}" if row.get("metric") else ""

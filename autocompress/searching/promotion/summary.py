"""Statistics of the rungs of a run, for summary.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from autocompress.searching.promotion.rows import accuracies
from autocompress.searching.promotion.states import LAST_RUNG

LEAST_PAIRS = 3
"""Minimum number of recipes for a rank correlation."""


def climbing_summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of each rung above 0; empty if there was no climb.

    These are the number of trained recipes, the number with a gain, the mean gain in points (0 for
    a recipe without a gain), and Spearman's correlation between the accuracies of rung 0 and of
    this rung.
    """
    tried = [accuracies(row) for row in rows]
    found: dict[str, Any] = {}
    for rung in range(1, LAST_RUNG + 1):
        own = [values for values in tried if rung in values and 0 in values]
        if not own:
            continue
        before = [max(value for number, value in values.items() if number < rung) for values in own]
        gains = [max(0.0, values[rung] - below) for values, below in zip(own, before, strict=True)]
        pairs = [values[0] for values in own], [values[rung] for values in own]
        found[str(rung)] = {
            "trained": len(own),
            "gained": sum(gain > 0 for gain in gains),
            "points": round(sum(gains) / len(gains), 3),
            "spearman": _spearman(*pairs),
        }
    return found


def _spearman(first: list[float], second: list[float]) -> float | None:
    """Spearman's rank correlation; None for too few pairs, or if one side is constant."""
    if len(first) < LEAST_PAIRS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import spearmanr  # here: importing it takes a third of a second

    value = float(spearmanr(first, second).statistic)
    return round(value, 3) if math.isfinite(value) else None

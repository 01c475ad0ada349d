"""Which parameters moved an objective: the share of its variance that each explains alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

LEAST_TRIALS = 8
"""With fewer, any share is chance."""
_BINS = 4


def explained(values: Sequence[Any], target: Sequence[float]) -> float:
    """Share of the variance of ``target`` between the groups of equal ``values``, 0 to 1, corrected for chance (epsilon
    squared, Kelley 1935). Numbers with many values are cut into quarters; None (not asked) is a group of its own.

    Args:
        values: a parameter's value in each trial, or None.
        target: the objective in each trial, finite.
    """
    outcome = np.asarray(target, dtype=np.float64)
    groups = _groups(pd.Series(list(values), dtype=object))
    trials, kinds = len(outcome), len(set(groups))
    total = float(((outcome - outcome.mean()) ** 2).sum()) if trials else 0.0
    if kinds < 2 or trials <= kinds or total <= 1e-12 * trials * max(float(np.abs(outcome).max()) ** 2, 1e-12):
        return 0.0
    means = pd.Series(outcome).groupby(groups).transform("mean").to_numpy()
    within = float(((outcome - means) ** 2).sum())
    return float(np.clip(1 - (within / (trials - kinds)) / (total / (trials - 1)), 0.0, 1.0))


def _groups(values: pd.Series) -> list[str]:
    numbers = values[values.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool))]
    if numbers.nunique() <= _BINS:
        return [repr(value) for value in values]
    edges = np.quantile(numbers.astype(float), np.arange(1, _BINS) / _BINS)
    return [
        f"quarter {np.searchsorted(edges, float(value))}" if index in numbers.index else repr(value)
        for index, value in values.items()
    ]


def importance(recipes: Sequence[dict[str, Any]], target: Sequence[float]) -> dict[str, float]:
    """Explained share by parameter, the largest first. Trials without a finite ``target`` are left out; empty where
    fewer than ``LEAST_TRIALS`` are left."""
    known = [index for index, value in enumerate(target) if np.isfinite(value)]
    if len(known) < LEAST_TRIALS:
        return {}
    kept = [recipes[index] for index in known]
    outcome = [target[index] for index in known]
    names = sorted({name for one in kept for name in one})
    shares = {name: explained([one.get(name) for one in kept], outcome) for name in names}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))

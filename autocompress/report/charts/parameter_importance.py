"""Importance of parameters: the share of the variance of an objective that each explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

LEAST_TRIALS = 20
"""Minimum number of trials for which shares are shown."""
LEVEL = 0.05
"""Level of all F-tests together: the chance of showing any parameter if none has an effect."""
_BINS = 4


@dataclass(frozen=True)
class Importance:
    """Share of the variance that a parameter explains, 0 to 1, with its 95 % interval."""

    share: float
    low: float
    high: float


def explained(values: Sequence[Any], target: Sequence[float]) -> float:
    """Share of the variance of ``target`` between the groups of equal ``values``, 0 to 1.

    It is corrected for chance (epsilon squared, Kelley 1935). Numbers with many values are divided
    into quarters. Trials without the parameter are in no group, because another parameter decides
    whether it is used. The total variance includes these trials.

    Args:
        values: the value of a parameter in each trial, None where it was not used.
        target: the objective in each trial, finite.
    """
    return _analysed(values, target)[0].share


def importance(recipes: Sequence[dict[str, Any]], target: Sequence[float]) -> dict[str, Importance]:
    """Explained share of each significant parameter (F-test), with its interval, the largest first.

    Args:
        recipes: parameters of each trial. A parameter with a single value explains nothing.
        target: the objective in each trial. Trials without a finite value are left out.

    Returns:
        Shares; empty where fewer than ``LEAST_TRIALS`` trials are left, or none is significant.
    """
    known = [index for index, value in enumerate(target) if np.isfinite(value)]
    if len(known) < LEAST_TRIALS:
        return {}
    kept, outcome = [recipes[index] for index in known], [target[index] for index in known]
    names = sorted({name for one in kept for name in one})
    found = {name: _analysed([one.get(name) for one in kept], outcome) for name in names}
    tested = sum(chance < 1.0 for _, chance in found.values())
    shares = {name: share for name, (share, chance) in found.items() if chance * tested < LEVEL}
    return dict(sorted(shares.items(), key=lambda item: -item[1].share))


_NOTHING = Importance(0.0, 0.0, 0.0), 1.0


def _analysed(values: Sequence[Any], target: Sequence[float]) -> tuple[Importance, float]:
    """The explained share, and its p-value (one-way analysis of variance), 1 where undefined."""
    everything = np.asarray(target, dtype=np.float64)
    asked = np.array([value is not None for value in values], dtype=bool)
    outcome = everything[asked]
    answers = pd.Series([value for value in values if value is not None], dtype=object)
    groups = np.unique(np.array(_groups(answers), dtype=str), return_inverse=True)[1]
    trials, kinds = len(outcome), int(groups.max()) + 1 if len(groups) else 0
    whole = float(((everything - everything.mean()) ** 2).sum()) if len(everything) else 0.0
    if kinds < 2 or trials <= kinds:
        return _NOTHING
    if whole <= 1e-12 * len(everything) * max(float(np.abs(everything).max()) ** 2, 1e-12):  # rounding
        return _NOTHING
    means = np.bincount(groups, outcome) / np.bincount(groups)
    within = float(((outcome - means[groups]) ** 2).sum())
    total = float(((outcome - outcome.mean()) ** 2).sum())
    if total <= 0.0:
        return _NOTHING
    part = total / whole
    share = float(np.clip(1 - (within / (trials - kinds)) / (total / (trials - 1)), 0.0, 1.0)) * part
    if within <= 1e-12 * total:  # rounding
        return Importance(share, share, share), 0.0
    ratio = ((total - within) / (kinds - 1)) / (within / (trials - kinds))
    low, high = (part * end for end in _interval(ratio, kinds - 1, trials - kinds))
    chance = float(special.fdtrc(kinds - 1, trials - kinds, ratio))
    return Importance(share, min(low, share), max(high, share)), chance


def _interval(ratio: float, between: int, within: int) -> tuple[float, float]:
    """The 95 % interval of an explained share: the shares that an F-test does not reject.

    If the true share is s, the ratio of an F-test of N trials has a non-central F distribution with
    non-centrality N s / (1 - s) (Steiger 2004).

    Args:
        ratio: the ratio of the F-test.
        between, within: its degrees of freedom.
    """
    trials = between + within + 1

    def chance(share: float) -> float:
        return float(special.ncfdtr(between, within, trials * share / (1 - share), ratio))

    ends = []
    for quantile in (0.975, 0.025):
        low, high = 0.0, 1.0 - 1e-9
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if chance(middle) > quantile else (low, middle)
        ends.append(low)
    return ends[0], ends[1]


def _groups(values: pd.Series) -> list[str]:
    numbers = values[values.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool))]
    if numbers.nunique() <= _BINS:
        return [repr(value) for value in values]
    edges = np.quantile(numbers.astype(float), np.arange(1, _BINS) / _BINS)
    return [
        f"quarter {np.searchsorted(edges, float(value))}" if index in numbers.index else repr(value)
        for index, value in values.items()
    ]

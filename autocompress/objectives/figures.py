"""Values of quantities in a row of a search.

Any value may be missing: None, NaN, or no such key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from autocompress.objectives.quantities import BY_NAME

Figures = Mapping[str, Any]
"""A row of trials.csv, or the baseline's, by column."""


def known(row: Figures, column: str) -> float | None:
    """The number in ``column``; None if it is missing, infinite or NaN."""
    try:
        number = float(row[column])
    except (KeyError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def amount(quantity: str, row: Figures) -> float | None:
    """The quantity of ``row`` in its unit, or None."""
    return known(row, BY_NAME[quantity].column)


def ratio(quantity: str, row: Figures, baseline: Figures) -> float | None:
    """The quantity of ``row`` divided by the baseline's; None if one of them is missing.

    A ratio that a device measured is taken as it is (``Quantity.ratio_column``).
    """
    if column := BY_NAME[quantity].ratio_column:
        return known(row, column)
    own, reference = amount(quantity, row), amount(quantity, baseline)
    return own / reference if own is not None and reference else None


def objective_values(objectives: Sequence[str], row: Figures, baseline: Figures) -> list[float | None]:
    """The value of each objective: accuracy in percent, costs as ratios to the baseline."""
    return [amount(name, row) if BY_NAME[name].higher_is_better else ratio(name, row, baseline) for name in objectives]


def directions(objectives: Sequence[str]) -> list[Literal["maximize", "minimize"]]:
    """Optuna's directions of the objectives."""
    return [BY_NAME[name].direction for name in objectives]


def point(objectives: Sequence[str], row: Figures, baseline: Figures) -> tuple[float, ...]:
    """The objective values as coordinates: lower is better, and a missing one is infinite."""
    values = objective_values(objectives, row, baseline)
    return tuple(
        math.inf if value is None else -value if BY_NAME[name].higher_is_better else value
        for name, value in zip(objectives, values, strict=True)
    )

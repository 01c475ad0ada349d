"""Bounds: whether a value meets a bound, by how much a row exceeds it, and texts about misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.objectives.figures import Figures, amount, known, ratio
from autocompress.objectives.quantities import BY_NAME, Quantity
from autocompress.objectives.spelling import Bound

Bounds = Mapping[str, Bound]
"""Upper bounds by quantity, ``accuracy_drop`` included."""


def met(quantity: Quantity, value: Any, limit: float) -> Any:
    """Whether ``value`` meets ``limit``.

    A limit is an upper one, or a lower one for a quantity that is better when higher.

    A value that misses by less than the quantity's tolerance meets the limit. NaN meets nothing.

    Args:
        quantity: gives direction and tolerance.
        value: a number, or a series or array of numbers.
        limit: limit in the unit of ``value``.

    Returns:
        A bool, or one for each number.
    """
    slack = quantity.slack(limit)
    return value >= limit - slack if quantity.higher_is_better else value <= limit + slack


def bounded_value(quantity: str, bound: Bound, row: Figures, baseline: Figures) -> float | None:
    """The value in ``row`` to compare with ``bound``: a ratio or an amount; None if missing."""
    return ratio(quantity, row, baseline) if bound.relative else amount(quantity, row)


def excess(bounds: Bounds, row: Figures, baseline: Figures) -> dict[str, float]:
    """The amount by which ``row`` exceeds each bound, for the quantities that are known.

    Zero or less means that the bound is met. 0.5 means that a cost exceeds its bound by half of the
    bound, and that an accuracy drop exceeds its bound by five points.
    """
    found: dict[str, float] = {}
    for name, bound in bounds.items():
        value = bounded_value(name, bound, row, baseline)
        if value is None:
            continue
        quantity = BY_NAME[name]
        beyond = quantity.beyond(value, bound.value)
        found[name] = min(beyond, 0.0) if met(quantity, value, bound.value) else beyond
    return found


def misses(excesses: Mapping[str, float]) -> list[str]:
    """Names of the bounds that are not met, the worst first."""
    return sorted((name for name, value in excesses.items() if value > 0), key=lambda name: -excesses[name])


def explain(names: Sequence[str], bounds: Bounds, row: Figures, baseline: Figures) -> str:
    """The misses in words: ``latency 0.62x, at most 0.5x; macs 8e+06, at most 5e+06``."""
    return "; ".join(_explained(name, bounds[name], bounded_value(name, bounds[name], row, baseline)) for name in names)


def _explained(name: str, bound: Bound, value: float | None) -> str:
    quantity = BY_NAME[name]
    if value is None:
        return f"{name.replace('_', ' ')} is not known"
    if not quantity.units:
        return f"{quantity.short} {value:.2f}{quantity.suffix}, at most {bound.value:g}"
    unit = "x" if bound.relative else quantity.suffix
    return f"{name} {value:.4g}{unit}, at most {bound.value:g}{unit}"


def is_borderline(bound: Bound | None, latency: Figures) -> bool:
    """Whether ``bound`` lies within the interval of a latency, so that noise decides.

    Args:
        bound: bound on latency; None for no bound.
        latency: the fields of a ``contract.Measurement``.
    """
    middle, milliseconds = known(latency, "latency_ratio"), known(latency, "latency_ms")
    low, high = known(latency, "ratio_low"), known(latency, "ratio_high")
    if bound is None or not middle or low is None or high is None or milliseconds is None:
        return False
    scale = 1.0 if bound.relative else milliseconds / middle
    return scale * low <= bound.value <= scale * high


def by_column(bounds: Bounds, baseline: Figures) -> dict[str, float]:
    """The bounds as limits on columns of trials.csv.

    A ratio that a device measures stays a ratio. Other ratios are multiplied by the baseline's
    amount, and are left out where that is missing.
    """
    limits: dict[str, float] = {}
    for name, bound in bounds.items():
        quantity = BY_NAME[name]
        if not bound.relative:
            limits[quantity.column] = bound.value
        elif quantity.ratio_column:
            limits[quantity.ratio_column] = bound.value
        elif (reference := amount(name, baseline)) is not None:
            limits[quantity.column] = bound.value * reference
    return limits

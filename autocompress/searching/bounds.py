"""Bounds: the job's constraints as numbers, how far a row is from them, and its objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from autocompress.job import Constraints, Job

Row = dict[str, Any]
"""A trial's row: the columns of trials.csv and what the engine keeps beside them, JSON values only."""

COLUMN = {
    "accuracy": "accuracy",
    "latency": "latency_ms",
    "size": "size_bytes",
    "energy": "energy_uj",
    "macs": "macs",
    "params": "params",
}
"""The column that holds each cost."""

POINTS = 10.0
"""So many points of accuracy drop weigh as much as the whole of a bound on a cost (fronts are judged on that range)."""


def cost_ratio(cost: str, row: Mapping[str, Any], baseline: Mapping[str, Any]) -> float | None:
    """``cost`` of ``row`` against the baseline's, or None where one of them is not known."""
    if cost == "latency":
        return row.get("latency_ratio")
    own, reference = row.get(COLUMN[cost]), baseline.get(COLUMN[cost])
    return own / reference if own is not None and reference else None


def excess(constraints: Constraints, row: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float]:
    """How far ``row`` is beyond each constraint whose quantity it knows: relative for costs, in tens of
    points for the accuracy drop. Zero or less meets it."""
    found: dict[str, float] = {}
    drop = row.get("accuracy_drop")
    if constraints.accuracy_drop is not None and drop is not None:
        found["accuracy_drop"] = (drop - constraints.accuracy_drop) / POINTS
    for cost, bound in constraints.bounds().items():
        value = cost_ratio(cost, row, baseline) if bound.relative else row.get(COLUMN[cost])
        if value is not None:
            found[cost] = value / bound.value - 1.0
    return found


def is_borderline(constraints: Constraints, latency: Mapping[str, Any]) -> bool:
    """Whether the bound on latency lies within the interval of a measurement, so that it may be met or missed."""
    bound = constraints.latency
    if bound is None or not latency["latency_ratio"]:
        return False
    scale = 1.0 if bound.relative else latency["latency_ms"] / latency["latency_ratio"]
    return bool(scale * latency["ratio_low"] <= bound.value <= scale * latency["ratio_high"])


def misses(excesses: Mapping[str, float]) -> list[str]:
    """Names of the constraints that are not met, the worst first."""
    return sorted((name for name, value in excesses.items() if value > 1e-9), key=lambda name: -excesses[name])


def explain(names: Sequence[str], constraints: Constraints, row: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """The misses in words: ``latency 0.62x, at most 0.5x; accuracy drop 1.9 points, at most 1``."""
    parts = []
    for name in names:
        if name == "accuracy_drop":
            parts.append(f"accuracy drop {row['accuracy_drop']:.2f} points, at most {constraints.accuracy_drop:g}")
            continue
        bound = constraints.bounds()[name]
        value = cost_ratio(name, row, baseline) if bound.relative else row[COLUMN[name]]
        unit = "x" if bound.relative else {"latency": " ms", "size": " bytes", "energy": " uJ"}.get(name, "")
        parts.append(f"{name} {value:.4g}{unit}, at most {bound.value:g}{unit}")
    return "; ".join(parts)


def objective_values(job: Job, row: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[float | None]:
    """One value an objective, in the job's order: accuracy in percent, costs as ratios to the baseline."""
    return [
        row.get("accuracy") if objective == "accuracy" else cost_ratio(objective, row, baseline)
        for objective in job.objectives
    ]


def directions(job: Job) -> list[Literal["maximize", "minimize"]]:
    """Optuna's directions of the job's objectives."""
    return ["maximize" if objective == "accuracy" else "minimize" for objective in job.objectives]

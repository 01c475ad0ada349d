"""Data of the charts of the page as JSON: axes, points, limits, parameters, progress."""

from __future__ import annotations

from typing import Any

import pandas as pd

from autocompress.objectives.hypervolume import progress
from autocompress.objectives.quantities import QUANTITIES, objective_columns
from autocompress.report import datafree, words
from autocompress.report.charts.parameter_importance import Importance, importance
from autocompress.report.metric import is_accuracy, metric
from autocompress.results import BASELINE, SearchResult


def _axes() -> list[dict[str, Any]]:
    """An axis for each quantity in the charts, and one for its ratio to the baseline if it has
    one."""
    axes: list[dict[str, Any]] = []
    for quantity in QUANTITIES:
        if quantity.unit == "points":  # the accuracy drop has no axis, because the axis of accuracy shows the same
            continue
        kind = {"log": not quantity.higher_is_better, "better": quantity.better}
        if quantity.ratio_column:
            axes.append({"key": quantity.ratio_column, "label": quantity.ratio_label, "unit": "×", **kind})
        axes.append({"key": quantity.column, "label": quantity.label, "unit": quantity.unit, **kind})
    return axes


AXES = tuple(_axes())
_NOTHING = Importance(0.0, 0.0, 0.0)
_EXTRA = ("accuracy_drop", "test_accuracy", "test_accuracy_drop", "latency_ratio_low", "latency_ratio_high", "seconds")


def chart_data(result: SearchResult) -> dict[str, Any]:
    """The data for the scripts of the page: JSON values only, with null for missing figures."""
    points = _points(result)
    axes = [axis for axis in AXES if any(point[axis["key"]] is not None for point in points)]
    by_agreement = datafree.is_by_agreement(result)
    if by_agreement:
        label = {"label": "Agreement with the baseline"}
        axes = [axis | label if axis["key"] == "accuracy" else axis for axis in axes]
    elif not is_accuracy(result):
        label = {"label": f"Validation {metric(result)}"}
        axes = [axis | label if axis["key"] == "accuracy" else axis for axis in axes]
    wanted = objective_columns(result.job.get("objectives", ()))
    known = [axis["key"] for axis in axes]
    objectives = [column for column in wanted if column in known] or known[:2]
    return {
        "axes": axes,
        "objectives": objectives,
        "x": next((column for column in objectives if column != "accuracy"), known[-1] if known else ""),
        "y": "accuracy" if "accuracy" in known else (known[0] if known else ""),
        "points": points,
        "byAgreement": by_agreement,
        "metric": metric(result),
        "limits": _limits(result),
        "parameters": _parameters(result, objectives),
        "progress": _progress(result.trials),
    }


def _points(result: SearchResult) -> list[dict[str, Any]]:
    measured = {int(row["trial"]): row for _, row in result.models.iterrows()}
    points, neutral = [], result.neutral
    for _, row in result.trials.iterrows():
        again = measured.pop(int(row["trial"]), None)
        points.append(_point(row, row["status"], neutral) if again is None else _point(again, "front", neutral))
    points += [_point(row, "front", neutral) for row in measured.values()]
    if pd.notna(result.baseline["accuracy"]) or pd.notna(result.baseline["latency_ms"]):
        points.append({**_point(result.baseline, BASELINE, neutral), "words": "uncompressed", "latency_ratio": 1.0})
    return points


def _point(row: pd.Series, kind: str, neutral: dict[str, Any]) -> dict[str, Any]:
    columns = [axis["key"] for axis in AXES] + list(_EXTRA)
    numbers = {name: None if pd.isna(row.get(name)) else float(row[name]) for name in columns}
    return {
        "trial": None if pd.isna(row["trial"]) else int(row["trial"]),
        "kind": str(kind),
        "status": str(row["status"]),
        "reason": str(row["reason"]),
        "rung": None if pd.isna(row["rung"]) else int(row["rung"]),
        "words": words.recipe(row["recipe"], neutral),
        "recipe": row["recipe"],
        **numbers,
    }


def _limits(result: SearchResult) -> dict[str, float]:
    """Limits by axis: upper bounds, except a lower bound for accuracy."""
    bounds = dict(result.limits)
    drop = bounds.pop("accuracy_drop", None)
    if drop is not None and pd.notna(result.baseline["accuracy"]):
        bounds["accuracy"] = float(result.baseline["accuracy"]) - drop
    return bounds


def _parameters(result: SearchResult, objectives: list[str]) -> list[dict[str, Any]]:
    """Parameters that vary: name, choices or range, explained share of each objective, interval."""
    recipes = [dict(recipe) for recipe in result.trials["recipe"]]
    shares = {
        column: importance(recipes, result.trials[column].astype("float64").to_numpy().tolist())
        for column in objectives
        if column in result.trials
    }
    found = []
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        values = [recipe[name] for recipe in recipes if name in recipe]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        choices = sorted(set(values)) if numeric else sorted({str(value) for value in values}, key=_natural)
        if len(choices) < 2:  # fixed
            continue
        known = {column: share.get(name, _NOTHING) for column, share in shares.items() if share}
        explained = {column: round(one.share, 4) for column, one in known.items()}
        found.append(
            {"name": name, "choices": choices if not numeric or len(choices) <= 8 else None}
            | {
                "range": [min(values), max(values)] if numeric else None,
                "explained": explained,
                "between": {column: [round(one.low, 4), round(one.high, 4)] for column, one in known.items()},
            }
        )
    return sorted(found, key=lambda parameter: -max(parameter["explained"].values(), default=0.0))


def _natural(text: str) -> tuple[str, int, str]:
    head, _, tail = text.rpartition(":")
    return (head, int(tail), "") if tail.isdigit() else ("", -1, text)


def _progress(trials: pd.DataFrame) -> list[float]:
    """Hypervolume after each trial; empty without any known accuracy drop or latency ratio."""
    done = trials["status"] == "complete"
    drop = trials["accuracy_drop"].where(done)
    if not drop.notna().any() or not trials["latency_ratio"].notna().any():
        return []
    return [round(value, 5) for value in progress(drop.to_numpy(), trials["latency_ratio"].to_numpy())]

"""The effect of each step of the recommended recipe, as rows with bars (a waterfall)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autocompress.objectives.quantities import BY_NAME
from autocompress.report import words
from autocompress.results import SearchResult

NAMES: Mapping[str, tuple[str, str]] = {
    "crop": ("Tap crop", "kernel taps that only read padding are left out; outputs stay equal"),
    "operators": ("Operators", "layers are replaced by cheaper ones"),
    "channels": ("Channels", "channels are removed"),
    "repair": ("Repair", "weights are refitted without training"),
    "training": ("Training", "the network is trained with the baseline as its teacher"),
    "bits": ("Bits", "weights and activations become integers of few bits"),
}
"""Heading and explanation by stage, in the order of the pipeline."""


@dataclass(frozen=True)
class Bar:
    """A bar from the value before to the value after, in percent of the track."""

    left: float
    width: float
    kind: Literal["better", "worse", "same"]


@dataclass(frozen=True)
class StepRow:
    """The model after one step.

    Attributes:
        name, told: heading and explanation of the step.
        cost: ratio to the baseline.
        interval: 95 % interval of the cost; empty if it was not measured.
        factor: cost after the step divided by the cost before.
        cost_bar, drop_bar: bars from the model before the step to the model after it.
        change: change of accuracy relative to the baseline, in points.
        step: change of accuracy in this step, in points.
    """

    name: str
    told: str
    cost: str
    interval: str
    factor: str
    cost_bar: Bar
    change: str
    step: str
    drop_bar: Bar


@dataclass(frozen=True)
class Steps:
    """The waterfall of a model.

    Attributes:
        trial: number of the model's trial.
        cost: name of the cost, for use in a sentence.
        rows: the steps in the order of the pipeline, without the baseline.
        limit: time limit of the measurement, as text.
        missing: the reason why steps are missing; empty if none is.
    """

    trial: int
    cost: str
    rows: list[StepRow]
    limit: str
    missing: str


def steps(result: SearchResult) -> Steps | None:
    """The waterfall of the run's recommended model; None if nothing was measured."""
    told = result.summary.get("explained") or {}
    column = f"{result.cost}_ratio" if result.cost in ("latency", "size") else "latency_ratio"
    found = [step for step in told.get("steps") or [] if step.get(column) and step.get("accuracy_drop") is not None]
    if not found:
        return None
    crop = result.summary.get("tap_crop") or {}
    if crop.get(column):
        found = [{**crop, "stage": "crop", "accuracy_drop": 0.0}, *found]
    lowest = min(float(step[column]) for step in found)
    drops = [float(step["accuracy_drop"]) for step in found]
    low, high = min(0.0, *drops), max(0.1, *drops)
    rows, cost, drop = [], 1.0, 0.0
    for step in found:
        after, lost = float(step[column]), float(step["accuracy_drop"])
        rows.append(_row(step, column, (cost, after), (drop, lost), lowest, (low, high)))
        cost, drop = after, lost
    what = BY_NAME["size" if column == "size_ratio" else "latency"].short
    limit = words.duration(told.get("limit"))
    return Steps(int(told.get("trial", -1)), what, rows, limit, str(told.get("missing") or ""))


def _row(
    step: Mapping[str, Any],
    column: str,
    costs: tuple[float, float],
    drops: tuple[float, float],
    lowest: float,
    range_of_drops: tuple[float, float],
) -> StepRow:
    name, told = NAMES.get(str(step["stage"]), (str(step["stage"]), ""))
    low, high = step.get(f"{column}_low"), step.get(f"{column}_high")
    factor = costs[1] / costs[0]
    bottom = math.log(min(lowest, 0.99) * 0.9)
    least, most = range_of_drops
    return StepRow(
        name=name,
        told=told,
        cost=words.ratio(costs[1]),
        interval=f"{words.ratio(low)} to {words.ratio(high)}" if low and high else "",
        factor="" if abs(factor - 1) < 0.005 else f"× {factor:.2f}",
        cost_bar=_bar(*(1 - math.log(cost) / bottom for cost in costs), lower=factor),
        change=words.points(-drops[1]),
        step="" if abs(drops[1] - drops[0]) < 0.005 else words.points(drops[0] - drops[1]),
        drop_bar=_bar(*((most - lost) / (most - least) for lost in drops), lower=1 + drops[1] - drops[0]),
    )


def _bar(before: float, after: float, *, lower: float) -> Bar:
    """The bar from ``before`` to ``after``, as shares of the track.

    It is drawn as better if ``lower`` is below 1.
    """
    start, end = (min(max(100 * share, 0.0), 100.0) for share in sorted((before, after)))
    kind: Literal["better", "worse", "same"] = "same" if abs(lower - 1) < 0.005 else "better" if lower < 1 else "worse"
    return Bar(round(min(start, 99.4), 1), round(max(end - start, 0.6), 1), kind)

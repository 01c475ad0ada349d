"""Trials without a loss of accuracy; recipes with higher predicted costs are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autocompress.objectives.dominance import Front
from autocompress.objectives.figures import known, ratio

Row = Mapping[str, Any]
Costs = Mapping[str, float]
"""Costs as ratios to those of the baseline, by name."""


def lossless(rows: Iterable[Row], costs: Sequence[str], baseline: Row) -> list[Costs]:
    """The costs of complete trials as accurate as the baseline, where all ``costs`` are known.

    Of these trials, those whose costs are dominated by another one are left out.
    """
    if not costs:
        return []
    front: Front[Costs] = Front()
    for row in rows:
        drop = known(row, "accuracy_drop")
        if row["status"] != "complete" or drop is None or drop > 0:
            continue
        found = {name: value for name in costs if (value := ratio(name, row, baseline)) is not None}
        if len(found) == len(costs):
            front.add(tuple(found.values()), found, len(front))
    return front.items


def is_beaten(predicted: Costs, by: Sequence[Costs], margin: float) -> bool:
    """Whether one of ``by`` has no cost above the ``predicted`` one.

    Args:
        predicted: predicted costs. If a cost of ``by`` is missing here, the result is False.
        by: costs of trials without a loss.
        margin: relative error of the prediction; each predicted cost must be higher by at least
            this.
    """
    return any(
        all(name in predicted and predicted[name] >= cost * (1 + margin) for name, cost in own.items()) for own in by
    )

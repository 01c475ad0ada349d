"""Chooses the models of a front with a name: the best trade, the cheapest, the most accurate.

Reports and commands use this module, so that all name the same models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autocompress.objectives.figures import Figures, known, ratio
from autocompress.objectives.quantities import BY_NAME, POINTS

TRADE, CHEAPEST, ACCURATE = "best trade", "cheapest", "most accurate"
"""Names of the three choices."""


def cost_objective(objectives: Sequence[str]) -> str:
    """The first cost among ``objectives``; latency if there is none."""
    costs = [name for name in objectives if name in BY_NAME and not BY_NAME[name].higher_is_better]
    return costs[0] if costs else "latency"


def trade(drop: float | None, share: float | None) -> float:
    """The value of a model as a trade: (10 - points lost) x log2(1 / share of the cost).

    It is the hypervolume of the model alone, without a limit to the speed-up. A gain of accuracy is
    treated as no loss. For the same value, a model that loses one point must be 8 % faster if its
    speed-up is 2, and 26 % faster if it is 8. The value is 0 at 10 points, at the cost of the
    baseline, and if a figure is missing.

    Args:
        drop: points of accuracy below the baseline.
        share: cost divided by the baseline's.
    """
    if drop is None or share is None or not share > 0:
        return 0.0
    return max(POINTS - max(drop, 0.0), 0.0) * max(-math.log2(share), 0.0)


def named_choices(rows: Sequence[Figures], baseline: Figures, cost: str) -> dict[str, int]:
    """The index of the row of each name; empty without rows.

    Of equal rows, the more accurate one is chosen, then the cheaper one, then the first. Rows whose
    intervals of latency overlap with that of the best one count as equal to it, unless one of them
    is surely faster than another. A row without a
    cost is only the cheapest if no row has a cost.

    Args:
        rows: acceptable models.
        baseline: the baseline's row.
        cost: name of the quantity of the cost.
    """
    if not rows:
        return {}
    drops = [known(row, "accuracy_drop") for row in rows]
    shares = [ratio(cost, row, baseline) for row in rows]
    lost = [math.inf if drop is None else drop for drop in drops]
    spent = [math.inf if share is None else share for share in shares]
    worth = [trade(drop, share) for drop, share in zip(drops, shares, strict=True)]
    every = range(len(rows))

    def settled(best: int) -> int:
        alike = [index for index in every if _overlap(rows[index], rows[best], cost)]
        alike = [index for index in alike if not any(_is_surely_faster(rows[other], rows[index]) for other in alike)]
        return min([best, *alike], key=lambda index: (lost[index], spent[index]))

    return {
        TRADE: settled(min(every, key=lambda index: (-worth[index], lost[index], spent[index]))),
        CHEAPEST: settled(min(every, key=lambda index: (spent[index], lost[index]))),
        ACCURATE: min(every, key=lambda index: (lost[index], spent[index])),
    }


def _overlap(one: Figures, other: Figures, cost: str) -> bool:
    """Whether the 95 % intervals of the latency of two rows overlap; False for other costs."""
    if cost != "latency":
        return False
    is_known = all(known(row, f"latency_ratio_{end}") is not None for row in (one, other) for end in ("low", "high"))
    return is_known and not _is_surely_faster(one, other) and not _is_surely_faster(other, one)


def _is_surely_faster(one: Figures, other: Figures) -> bool:
    high, low = known(one, "latency_ratio_high"), known(other, "latency_ratio_low")
    return high is not None and low is not None and high < low


def cheapest_by_drop(rows: Sequence[Figures], baseline: Figures, cost: str) -> list[int]:
    """Indices of the rows that are the cheapest for some allowed drop, the most accurate first.

    Of the rows within an allowed drop, the last one is the cheapest. A gain of accuracy is treated
    as no loss. Rows without a drop or a cost are left out.

    Args:
        rows: models.
        baseline: the baseline's row.
        cost: name of the quantity that they cost.
    """
    known_rows = [
        (max(drop, 0.0), share, index)
        for index, row in enumerate(rows)
        if (drop := known(row, "accuracy_drop")) is not None and (share := ratio(cost, row, baseline)) is not None
    ]
    found, least = [], math.inf
    for _, share, index in sorted(known_rows):
        if share < least:
            found.append(index)
            least = share
    return found

"""The cheapest model for each allowed accuracy drop, for the slider of the report page."""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.report import words
from autocompress.report.answer import cost_share
from autocompress.results import SearchResult


@dataclass(frozen=True)
class TradeRow:
    """A model that is the cheapest one for some allowed drops.

    Attributes:
        drop: accuracy drop of the model, in points. If this drop is allowed, no model is cheaper.
        allowed: ``drop`` as text.
        trial: number of the model's trial.
        gain: the cost as text: "10.6 times as fast".
        cost: ratio to the cost of the baseline.
        change, test_change: change of accuracy on validation and test images, in points.
        size: size of the file.
        fits: whether it meets the constraints of the job.
    """

    drop: float
    allowed: str
    trial: int
    gain: str
    cost: str
    change: str
    test_change: str
    size: str
    fits: bool


def trade_rows(result: SearchResult) -> list[TradeRow]:
    """The rows, the most accurate model first; empty if accuracy and cost are unknown."""
    return [
        TradeRow(
            drop=max(round(float(row["accuracy_drop"]), 4), 0.0),
            allowed=words.drop(round(max(float(row["accuracy_drop"]), 0.0), 2)),
            trial=int(row["trial"]),
            gain=words.gain(result.cost, cost_share(result, row, result.cost)),
            cost=words.ratio(cost_share(result, row, result.cost)),
            change=words.points(-row["accuracy_drop"]),
            test_change=words.points(-row["test_accuracy_drop"]),
            size=words.size(row["size_bytes"]),
            fits=not result.missed(row),
        )
        for _, row in result.cheapest_by_drop().iterrows()
    ]

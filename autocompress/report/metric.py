"""The metric of a run's task, which the columns call "accuracy"."""

from __future__ import annotations

from autocompress.report import datafree
from autocompress.results import SearchResult

ACCURACY = "accuracy"


def metric(result: SearchResult) -> str:
    """The metric of the run's task in lower case; "accuracy" for classification."""
    return str(result.summary.get("metric") or ACCURACY)


def is_accuracy(result: SearchResult) -> bool:
    """Whether the metric is a share of correct images, which has a binomial interval."""
    return metric(result) == ACCURACY


def judged(result: SearchResult) -> str:
    """The figure that judges trials, as text: "validation accuracy" or "agreement"."""
    return "agreement" if datafree.is_by_agreement(result) else f"validation {metric(result)}"

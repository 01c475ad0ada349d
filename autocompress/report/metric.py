"""The name of what "accuracy" is in a run: the metric of its task."""

from __future__ import annotations

from autocompress.report import datafree
from autocompress.results import SearchResult

ACCURACY = "accuracy"


def metric(result: SearchResult) -> str:
    """The metric of the run's task in lower case, "accuracy" where classes are predicted."""
    return str(result.summary.get("metric") or ACCURACY)


def is_accuracy(result: SearchResult) -> bool:
    """Whether it is a share of images that are right, so that it has a binomial interval."""
    return metric(result) == ACCURACY


def judged(result: SearchResult) -> str:
    """What judges trials, in a few words: "validation accuracy", or "agreement"."""
    return "agreement" if datafree.is_by_agreement(result) else f"validation {metric(result)}"

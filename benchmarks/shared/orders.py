"""Checks whether the orders that a paper claims are kept, reversed or undecided here.

Rows are compared on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Difference(NamedTuple):
    """Difference of accuracies in points with a 95 % interval, and the difference of each seed."""

    points: float
    low: float
    high: float
    by_seed: list[float]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper about two rows.

    Attributes:
        text: the sentence.
        first, second: keys of the rows.
        margin: None if ``first`` is better; else both are equal up to ``margin`` points.
        paper: points of the paper, ``first`` minus ``second``; None if it prints none.
    """

    text: str
    first: str
    second: str
    margin: float | None = None
    paper: float | None = None


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Difference:
    """Accuracy of ``first`` minus that of ``second`` in points, paired, averaged over seeds.

    The interval is that over images of the mean over seeds; as in Bonett and Price's (2012)
    adjustment, one more image is counted for either side. For one seed it is
    ``objectives.intervals.paired_difference``'s, up to rounding.

    Args:
        first, second: for each seed, whether each image is right, bool ``(images,)``.

    Raises:
        ValueError: if they do not fit each other.
    """
    ours, theirs = np.stack(first).astype(float), np.stack(second).astype(float)
    if ours.shape != theirs.shape:
        raise ValueError(f"both need the same seeds and images: {ours.shape} and {theirs.shape}")
    by_seed = 100 * (ours - theirs).mean(1)
    of_images = np.concatenate([(ours - theirs).mean(0), [1.0, -1.0]])
    half = 1.96 * of_images.std() / np.sqrt(len(of_images))
    centre = of_images.mean()
    return Difference(
        float(by_seed.mean()), 100 * float(centre - half), 100 * float(centre + half), [round(x, 2) for x in by_seed]
    )


def verdict(claim: Claim, found: Difference) -> str:
    """``kept``, ``reversed`` or ``undecided``.

    One row is better where the interval excludes 0 and no seed says the opposite; both are as good
    where the interval lies within the margin, and not where it lies beyond.
    """
    if claim.margin is not None:
        if -claim.margin <= found.low and found.high <= claim.margin:
            return "kept"
        return "reversed" if found.low > claim.margin or found.high < -claim.margin else "undecided"
    if found.low > 0 and min(found.by_seed) >= 0:
        return "kept"
    return "reversed" if found.high < 0 and max(found.by_seed) <= 0 else "undecided"


def judged(claim: Claim, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, Any]:
    """The claim with figures and verdict, as JSON."""
    found = difference(first, second)
    return {
        "claim": claim.text,
        "first": claim.first,
        "second": claim.second,
        "margin": claim.margin,
        "points": round(found.points, 2),
        "low": round(found.low, 2),
        "high": round(found.high, 2),
        "by_seed": found.by_seed,
        "paper_points": claim.paper,
        "verdict": verdict(claim, found),
    }

"""Intervals for an accuracy, and for the difference of two on the same images."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Interval(NamedTuple):
    """An estimate with its confidence interval, in percent or percentage points."""

    estimate: float
    low: float
    high: float


def wilson(correct: int, images: int, confidence: float = 0.95) -> Interval:
    """Accuracy in percent with Wilson's score interval (Wilson 1927), as scipy computes it.

    Args:
        correct: images classified correctly, 0 to ``images``.
        images: number of images, at least 1.
        confidence: between 0 and 1.

    Raises:
        ValueError: if the counts or the confidence are impossible.
    """
    from scipy.stats import binomtest  # here: importing it takes more than a second

    if images < 1 or not 0 <= correct <= images:
        raise ValueError(f"{correct} of {images} images cannot be correct")
    _quantile(confidence)
    found = binomtest(correct, images).proportion_ci(confidence, method="wilson")
    share = correct / images
    # At 0 or 100 %, rounding may put the estimate outside of the interval in the last digit.
    return Interval(100 * share, 100 * min(float(found.low), share), 100 * max(float(found.high), share))


def paired_difference(candidate: npt.ArrayLike, baseline: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy of ``candidate`` minus that of ``baseline`` in points, with an interval.

    Both were measured on the same images. The interval only depends on images on which the two
    disagree, so it is far narrower than that of two separate accuracies.

    Adjusted Wald interval (Bonett and Price, 2012): one disagreement is added in favour of each of
    the two, so that the coverage is right even with few disagreements. The centre is therefore a
    little nearer to 0 than the estimate. scipy and statsmodels have no interval for paired
    proportions.

    Args:
        candidate, baseline: bool ``(images,)``, which images are classified correctly, in the same
            order.
        confidence: between 0 and 1.

    Raises:
        ValueError: if there are no images or the lengths differ.
    """
    ours, theirs = np.asarray(candidate, dtype=bool), np.asarray(baseline, dtype=bool)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(
            f"candidate and baseline need one bool per image, but their shapes are {ours.shape} and {theirs.shape}"
        )
    won, lost, images = int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)
    up, down = (won + 1) / (images + 2), (lost + 1) / (images + 2)
    half = _quantile(confidence) * sqrt((up + down - (up - down) ** 2) / (images + 2))
    low, high = max(up - down - half, -1.0), min(up - down + half, 1.0)
    return Interval(100 * (won - lost) / images, 100 * low, 100 * high)


def one_image(images: int) -> float:
    """The accuracy of one image, in percentage points: 100 / ``images``."""
    return 100.0 / images


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence must be between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)

"""The interval of a difference of two metrics on the same images, by a jackknife over blocks."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from autocompress.objectives.intervals import Interval

BLOCKS = 40
"""Blocks of images: the metric is computed twice for each."""


def paired_interval(
    metric: Callable[[np.ndarray], float], candidate: np.ndarray, baseline: np.ndarray, confidence: float = 0.95
) -> Interval:
    """``metric(candidate) - metric(baseline)`` in points, with an interval.

    Delete-one-block jackknife (Tukey, 1958; Efron and Stein, 1981): the difference is computed
    without each of some 40 blocks of images. It holds for smooth metrics that are no means, such as
    a mean average precision, at the cost of 80 metrics. The interval has the quantile of Student's
    t, and is never narrower than one image on either side.

    Args:
        metric: in percent, of the marks of some images.
        candidate, baseline: marks of the same images, images first.
        confidence: between 0 and 1.

    Raises:
        ValueError: if there are no images or the numbers of images differ.
    """
    if len(candidate) != len(baseline) or not len(candidate):
        raise ValueError(f"both need marks of the same images: {len(candidate)} and {len(baseline)}")
    images = len(candidate)
    estimate = metric(candidate) - metric(baseline)
    count = min(BLOCKS, images)
    block = np.arange(images) % count
    without = [metric(candidate[block != one]) - metric(baseline[block != one]) for one in range(count) if images > 1]
    known = np.array([value for value in without if np.isfinite(value)])
    half = 100.0 / images
    if len(known) > 1:
        spread = (len(known) - 1) / len(known) * float(((known - known.mean()) ** 2).sum())
        from scipy import special  # slow to import; most intervals are of classes

        quantile = float(special.stdtrit(len(known) - 1, (1 + confidence) / 2))
        half = max(half, quantile * sqrt(spread))
    return Interval(estimate, estimate - half, estimate + half)

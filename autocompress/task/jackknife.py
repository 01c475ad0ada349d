"""The interval of the difference of two models in a metric, by a jackknife over image blocks."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from autocompress.objectives.intervals import Interval

BLOCKS = 40
"""The number of blocks of images. The metric is computed twice for each."""


def paired_interval(
    metric: Callable[[np.ndarray], float], candidate: np.ndarray, baseline: np.ndarray, confidence: float = 0.95
) -> Interval:
    """``metric(candidate) - metric(baseline)`` in points, with an interval.

    This is a delete-one-block jackknife (Tukey, 1958; Efron and Stein, 1981): the images are
    divided into 40 blocks, and the difference is computed without each block in turn. It is valid
    for any smooth metric, for example the mean average precision, which is no mean over images. It
    computes the metric 80 times. The interval uses the quantile of Student's t distribution, and
    extends at least one image to either side.

    Args:
        metric: computes the metric in percent from the marks of some images.
        candidate, baseline: marks of the same images, images first.
        confidence: between 0 and 1.

    Raises:
        ValueError: if there are no images or the numbers of images differ.
    """
    if len(candidate) != len(baseline) or not len(candidate):
        raise ValueError(f"marks of the same images are needed, not of {len(candidate)} and {len(baseline)} images")
    images = len(candidate)
    estimate = metric(candidate) - metric(baseline)
    count = min(BLOCKS, images)
    block = np.arange(images) % count
    without = [metric(candidate[block != one]) - metric(baseline[block != one]) for one in range(count) if images > 1]
    known = np.array([value for value in without if np.isfinite(value)])
    half = 100.0 / images
    if len(known) > 1:
        spread = (len(known) - 1) / len(known) * float(((known - known.mean()) ** 2).sum())
        from scipy import special  # imported here: it is slow, and classification does not need it

        quantile = float(special.stdtrit(len(known) - 1, (1 + confidence) / 2))
        half = max(half, quantile * sqrt(spread))
    return Interval(estimate, estimate - half, estimate + half)

"""Predicts the gain of training from the gains of recipes that climbed so far.

The gain is a share of the points that are lost:

    gain = drop * (a + b log10(KL / 0.05) + c_rung + d_family)

a, b, c and d are estimated by Bayesian linear regression. The prior is from measurements of a
ResNet-18 with removed channels and refitted layers. A quarter epoch gained back a fifth of the
points lost at a KL of 0.056, and a whole epoch gained back half of them. After mild cuts there was
no gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SHARE, SLOPE = 0.3, 0.2
"""Prior means of a and b."""
SHARE_ERROR, SLOPE_ERROR, RUNG_ERROR, FAMILY_ERROR = 0.15, 0.1, 0.15, 0.1
"""Prior standard deviations of a, b, c and d."""
NOISE_POINTS, NOISE_SHARE = 0.4, 0.15
"""Standard deviation of a measured gain: in points, and as a share of the drop."""
REFERENCE_KL, POINTS_PER_KL = 0.05, 40.0
"""A KL in nats, and points per nat by which an unknown KL is estimated."""
MOST_DECADES = 1.5
"""Largest distance of log10(KL) from the reference."""
UPPER = 1.64
"""Standard deviations from the mean to the upper end of a 90 % interval."""


@dataclass(frozen=True)
class Climber:
    """The properties of a recipe from which its gain is predicted.

    Attributes:
        drop: accuracy drop on its present rung, in points.
        divergence: KL to the baseline after repair, in nats; None if unknown.
        family: the methods that act in it.
        rung: the next rung.
    """

    drop: float
    divergence: float | None
    family: str
    rung: int


@dataclass(frozen=True)
class Gain:
    """A predicted gain in points: its mean, and the upper end of its interval."""

    mean: float
    upper: float


class Gains:
    """Predicts gains.

    Args:
        seen: recipes that climbed, with their gains in points.
    """

    def __init__(self, seen: Iterable[tuple[Climber, float]] = ()) -> None:
        self._seen = list(seen)
        families = dict.fromkeys(climber.family for climber, _ in self._seen)
        self._families = {name: number for number, name in enumerate(families)}
        prior = [SHARE_ERROR, SLOPE_ERROR, RUNG_ERROR, *[FAMILY_ERROR] * len(self._families)]
        precision = np.diag([1 / error**2 for error in prior])
        self._mean = np.array([SHARE, SLOPE, 0.0, *[0.0] * len(self._families)])
        pull = precision @ self._mean
        for climber, gain in self._seen:
            row = self._features(climber)
            weight = 1 / (NOISE_POINTS**2 + (NOISE_SHARE * climber.drop) ** 2)
            precision += weight * np.outer(row, row)
            pull += weight * row * gain
        self._covariance = np.linalg.inv(precision)
        self._mean = self._covariance @ pull

    def predict(self, climber: Climber) -> Gain:
        """The predicted gain of ``climber``, at most its loss so far.

        The mean is at least 0, because a training that loses accuracy is not kept.
        """
        if climber.drop <= 0:
            return Gain(0.0, 0.0)
        row = self._features(climber)
        mean = float(row @ self._mean)
        new = 0.0 if climber.family in self._families else (FAMILY_ERROR * climber.drop) ** 2
        spread = math.sqrt(float(row @ self._covariance @ row) + new + (NOISE_SHARE * climber.drop) ** 2)
        return Gain(min(max(mean, 0.0), climber.drop), min(max(mean + UPPER * spread, 0.0), climber.drop))

    def _features(self, climber: Climber) -> np.ndarray:
        divergence = climber.drop / POINTS_PER_KL if climber.divergence is None else climber.divergence
        decades = math.log10(max(divergence, 1e-9) / REFERENCE_KL)
        decades = min(max(decades, -MOST_DECADES), MOST_DECADES)
        row = np.zeros(3 + len(self._families))
        row[:3] = 1.0, decades, float(climber.rung > 1)
        if climber.family in self._families:
            row[3 + self._families[climber.family]] = 1.0
        return max(climber.drop, 0.0) * row

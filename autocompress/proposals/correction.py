"""Corrects predicted divergences with measured ones: deep cuts lose more than their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

STEEPEST = -0.9
"""Lower bound of the slope, so that a corrected divergence grows with the predicted one."""
PRIOR = 0.5
"""Prior standard deviations of offset and slope."""
NOISE = 0.2
"""Prior standard deviation of log(measured / predicted) around the line."""


@dataclass(frozen=True)
class Correction:
    """measured = predicted * exp(offset + slope * (log predicted - centre)), in the known range.

    Attributes:
        offset, slope, centre: coefficients of the line above.
        low, high: range of the logarithms of known predicted divergences; the line is constant
            beyond it.
        error: standard deviation of the logarithm around the line.
    """

    offset: float = 0.0
    slope: float = 0.0
    centre: float = 0.0
    low: float = 0.0
    high: float = 0.0
    error: float = NOISE

    @classmethod
    def fit(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """Fits the line by least squares, with the prior of no correction.

        Pairs without two positive finite numbers are ignored. Without any pair, the correction
        changes nothing.

        Args:
            predicted: divergence of each trial from the table.
            measured: divergence of each trial's repaired network, before training and quantization.
        """
        pairs = np.array([*zip(predicted, measured, strict=True)], dtype=float).reshape(-1, 2)
        pairs = pairs[(np.isfinite(pairs) & (pairs > 0)).all(1)]
        if not len(pairs):
            return cls()
        at, off = np.log(pairs[:, 0]), np.log(pairs[:, 1] / pairs[:, 0])
        centre = float(at.mean())
        system = np.stack([np.ones_like(at), at - centre], 1)
        pull = (NOISE / PRIOR) ** 2
        offset, slope = np.linalg.solve(system.T @ system + pull * np.eye(2), system.T @ off)
        slope = max(float(slope), STEEPEST)
        left = off - offset - slope * (at - centre)
        error = np.sqrt((NOISE**2 + np.sum(left**2)) / (1 + max(len(at) - 2, 0)))
        return cls(float(offset), slope, centre, float(at.min()), float(at.max()), float(error))

    def __call__(self, divergence: float) -> float:
        """The corrected divergence; 0 for 0."""
        if divergence <= 0:
            return 0.0
        at = min(max(float(np.log(divergence)), self.low), self.high)
        return float(divergence * np.exp(self.offset + self.slope * (at - self.centre)))

    def predicted(self, divergence: float) -> float:
        """The inverse: the predicted divergence whose corrected value is ``divergence``."""
        low, high = divergence * 1e-3, divergence * 1e3
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if self(middle) < divergence else (low, middle)
        return high

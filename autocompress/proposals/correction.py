"""Predicted divergences, corrected by those of trials.

Deep cuts lose more together than the sum of their parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

STEEPEST = -0.9
"""The slope stays above it, so that a corrected divergence still grows with the predicted one."""
PRIOR = 0.5
"""Standard deviations of offset and slope that are expected before a trial has been seen."""
NOISE = 0.2
"""Standard deviation of log(measured / predicted) around the line that is expected then."""


@dataclass(frozen=True)
class Correction:
    """measured = predicted * exp(offset + slope * (log predicted - centre)), in the seen range.

    Attributes:
        offset, slope, centre: of the line.
        low, high: logarithms of the predicted divergences that were seen; the line is level beyond
        them.
        error: standard deviation of the logarithm around it.
    """

    offset: float = 0.0
    slope: float = 0.0
    centre: float = 0.0
    low: float = 0.0
    high: float = 0.0
    error: float = NOISE

    @classmethod
    def fit(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """Least squares with a prior that nothing needs correcting.

        Pairs without two positive finite numbers are ignored; without any the correction changes
        nothing.

        Args:
            predicted: divergence of each trial by the table.
            measured: of the repaired network, before it is trained or quantized.
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
        """The predicted divergence whose corrected one is ``divergence``."""
        low, high = divergence * 1e-3, divergence * 1e3
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if self(middle) < divergence else (low, middle)
        return high

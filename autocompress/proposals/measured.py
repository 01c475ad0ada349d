"""Corrects predicted costs with measured costs of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autocompress.proposals.factors import Factor
from autocompress.proposals.problem import Problem

PRIOR = 0.01
"""Squared ratio of the error of a measurement to the prior error of the slope: 3 % to 30 %."""


def with_measured(
    problem: Problem, name: str, selections: Sequence[Sequence[int]], measured: Sequence[float]
) -> tuple[Problem, float]:
    """The problem with one corrected cost, and the relative error of that cost.

    measured = a + b * predicted, by least squares of relative errors. Predicted and measured costs
    may have different units; the corrected cost has the unit of the measurements.

    Args:
        problem: problem with the predicted cost.
        name: name of the cost.
        selections: choices of each measured candidate, as indices.
        measured: measured cost of each candidate.

    Returns:
        The unchanged problem and NaN if nothing was measured.
    """
    predicted = np.array([problem.cost(name, own) for own in selections], dtype=float)
    values = np.array(measured, dtype=float)
    usable = np.isfinite(predicted) & np.isfinite(values) & (predicted > 0) & (values > 0)
    predicted, values = predicted[usable], values[usable]
    if not len(values):
        return problem, float("nan")
    scale = float(np.median(values / predicted))
    rest, slope = _line(predicted * scale, values)
    slope *= scale
    fixed = {**problem.fixed, name: rest + slope * problem.fixed.get(name, 0.0)}
    factors = [Factor(factor.parts, slope * factor.table) for factor in problem.costs[name]]
    errors = (rest + slope * predicted) / values - 1
    error = float(np.sqrt(np.sum(errors**2) / max(1, len(errors) - 1)))
    return replace(problem, costs={**problem.costs, name: factors}, fixed=fixed), error


def _line(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """a and b, pulled towards 0 and 1; b is never negative."""
    system = np.stack([1 / measured, predicted / measured], 1)
    pull = np.sqrt(PRIOR) * np.array([[1 / np.median(measured), 0.0], [0.0, 1.0]])
    target = np.concatenate([np.ones(len(measured)), [0.0, np.sqrt(PRIOR)]])
    rest, slope = np.linalg.lstsq(np.concatenate([system, pull]), target, rcond=None)[0]
    if slope <= 0:
        return 0.0, float(np.median(measured / predicted))
    return float(rest), float(slope)

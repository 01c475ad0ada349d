"""Fronts: who dominates whom, how crowded a front is, and how much a front is worth (hypervolume)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

WORST_DROP = 10.0
"""Points of accuracy at which a front is worth nothing."""
WORST_LOG_SPEEDUP, BEST_LOG_SPEEDUP = 0.0, 5.0
"""log2 of the speed-up that counts: 1x to 32x."""


def ranks(points: npt.ArrayLike, violation: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Non-dominated ranks, 0 for the front, by constrained domination (Deb et al., NSGA-II, 2002, definition 1).

    A feasible point dominates every infeasible one; of two infeasible points the one that violates less dominates; of
    two feasible ones the one that is nowhere worse and somewhere better. Equal points share a rank.

    Args:
        points: ``(n, objectives)``, lower is better; NaN counts as infinitely bad.
        violation: ``(n,)``, how far each point misses the constraints, 0 where it meets them; None: all meet them.

    Returns:
        int64 ``(n,)``.
    """
    better = _dominates(_matrix(points), violation)
    dominators = better.sum(axis=0)
    result = np.full(len(better), -1, dtype=np.int64)
    rank = 0
    while (result < 0).any():
        front = (dominators == 0) & (result < 0)
        result[front] = rank
        dominators = dominators - better[front].sum(axis=0)
        rank += 1
    return result


def non_dominated(points: npt.ArrayLike, violation: npt.ArrayLike | None = None) -> npt.NDArray[np.bool_]:
    """Which points are on the front, bool ``(n,)``; arguments as for :func:`ranks`. With no feasible point, the front
    holds those of the least violation."""
    dominated = _dominates(_matrix(points), violation).any(axis=0)
    return np.asarray(~dominated, dtype=np.bool_)


def _matrix(points: npt.ArrayLike) -> Array:
    matrix = np.asarray(points, dtype=np.float64)
    if matrix.size == 0:
        return matrix.reshape(0, 1)
    if matrix.ndim != 2:
        raise ValueError(f"points must be (n, objectives), not {matrix.shape}")
    return np.where(np.isnan(matrix), np.inf, matrix)


def _dominates(points: Array, violation: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    """bool ``(n, n)``: row dominates column."""
    nowhere_worse = (points[:, None] <= points[None]).all(axis=2)
    somewhere_better = (points[:, None] < points[None]).any(axis=2)
    pareto = nowhere_worse & somewhere_better
    if violation is None:
        return np.asarray(pareto, dtype=np.bool_)
    miss = np.maximum(np.nan_to_num(np.asarray(violation, dtype=np.float64), nan=np.inf), 0.0)
    return np.asarray((miss[:, None] < miss[None]) | ((miss[:, None] == miss[None]) & pareto), dtype=np.bool_)


def crowding(points: npt.ArrayLike) -> Array:
    """Crowding distance of the points of one front (NSGA-II, section III-B), float64 ``(n,)``; ends: infinite."""
    matrix = _matrix(points)
    distance = np.zeros(len(matrix))
    if len(matrix) < 3:
        return np.full(len(matrix), np.inf)
    for column in matrix.T:
        order = np.argsort(column, kind="stable")
        finite = column[np.isfinite(column)]
        span = np.ptp(finite) if finite.size else 0.0
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            gap = np.clip(column[order[2:]], None, finite.max()) - np.clip(column[order[:-2]], None, finite.max())
            distance[order[1:-1]] += gap / span
    return distance


def hypervolume(drop: npt.ArrayLike, ratio: npt.ArrayLike) -> float:
    """What a front is worth: the area it dominates over accuracy drop (10 to 0 points) and log2 of the speed-up (1x to
    32x), as a share of the whole, 0 to 1. Exact: a sweep over the points in order of speed.

    Args:
        drop: points of accuracy below the baseline, ``(n,)``. A gain counts as 0.
        ratio: latency as a share of the baseline's, ``(n,)``.
    """
    kept = 1.0 - np.clip(np.asarray(drop, dtype=np.float64) / WORST_DROP, 0.0, 1.0)
    ratio = np.asarray(ratio, dtype=np.float64)
    if (ratio <= 0).any():
        raise ValueError("a latency ratio must be greater than 0")
    speed = np.clip(-np.log2(ratio), WORST_LOG_SPEEDUP, BEST_LOG_SPEEDUP) / BEST_LOG_SPEEDUP
    known = ~(np.isnan(kept) | np.isnan(speed))
    order = np.argsort(-speed[known], kind="stable")
    speed, kept = speed[known][order], kept[known][order]
    steps = speed - np.append(speed[1:], 0.0)[: len(speed)]
    return min(float((steps * np.maximum.accumulate(kept)).sum()), 1.0)  # rounding may leave the sum a last digit above


def progress(drop: npt.ArrayLike, ratio: npt.ArrayLike) -> Array:
    """Hypervolume after the first, the first two, ... points, float64 ``(n,)``."""
    drops, ratios = np.asarray(drop, dtype=np.float64), np.asarray(ratio, dtype=np.float64)
    reached: list[float] = [0.0]
    useful: list[int] = []
    for index in range(len(drops)):
        volume = hypervolume(drops[[*useful, index]], ratios[[*useful, index]])
        # Only points that added something matter later on; without this a long search costs quadratic time here.
        if volume > reached[-1]:
            useful.append(index)
        reached.append(max(volume, reached[-1]))
    return np.array(reached[1:])

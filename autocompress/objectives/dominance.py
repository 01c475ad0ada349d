"""Dominance between points, and a front to which points are added one by one.

A point is a sequence of objective values, any number of them, all better when lower. A missing
value (None or NaN) is treated as infinite, so it is never better than a known one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Array = npt.NDArray[np.float64]


def dominates(ours: Sequence[float | None], theirs: Sequence[float | None]) -> bool:
    """Whether ``ours`` is nowhere worse than ``theirs`` and somewhere better.

    Raises:
        ValueError: if the lengths differ.
    """
    return _dominates(comparable(ours), comparable(theirs))


def comparable(point: Sequence[float | None]) -> tuple[float, ...]:
    """``point`` with missing values as infinite ones."""
    return tuple(math.inf if value is None or math.isnan(value) else float(value) for value in point)


def _dominates(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


class Front(Generic[Item]):
    """The non-dominated points among those that were added.

    A new point is compared with the points of the front only. Of equal points the front holds the
    one with the lowest number, so the front does not depend on the order of adding.
    """

    def __init__(self) -> None:
        self._members: list[tuple[tuple[float, ...], int, Item]] = []

    def add(self, point: Sequence[float | None], item: Item, number: int) -> bool:
        """Adds a point.

        Args:
            point: its objective values; lower is better.
            item: the object that the front stores with the point.
            number: different for each point.

        Returns:
            Whether it is on the front now.
        """
        new = comparable(point)
        if any(_dominates(old, new) or (old == new and other <= number) for old, other, _ in self._members):
            return False
        self._members = [member for member in self._members if not (_dominates(new, member[0]) or new == member[0])]
        self._members.append((new, number, item))
        return True

    def discard(self, number: int) -> None:
        """Removes the point ``number`` from the front. Points that it dominated do not return."""
        self._members = [member for member in self._members if member[1] != number]

    def __len__(self) -> int:
        return len(self._members)

    @property
    def points(self) -> list[tuple[float, ...]]:
        """The points on the front, in the order of their numbers."""
        return [point for point, _, _ in self._sorted()]

    @property
    def items(self) -> list[Item]:
        """The items of these points, in the same order."""
        return [item for _, _, item in self._sorted()]

    def _sorted(self) -> list[tuple[tuple[float, ...], int, Item]]:
        return sorted(self._members, key=lambda member: member[1])


def non_dominated(points: npt.ArrayLike, violation: npt.ArrayLike | None = None) -> npt.NDArray[np.bool_]:
    """Mask of the points that no other point dominates, bool ``(n,)``; the same for equal points.

    Arguments as for :func:`ranks`. Without a feasible point, the mask holds the points with the
    smallest violation.
    """
    dominated = _domination(_matrix(points), violation).any(axis=0)
    return np.asarray(~dominated, dtype=np.bool_)


def ranks(points: npt.ArrayLike, violation: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Non-dominated ranks, 0 for the front.

    Constrained domination: Deb et al., NSGA-II, 2002, definition 1.

    A feasible point dominates every infeasible one. Of two infeasible points, the one with the
    smaller violation dominates. Of two feasible points, the one that is nowhere worse and somewhere
    better dominates. Equal points share a rank.

    Args:
        points: ``(n, objectives)``, lower is better; NaN is treated as infinite.
        violation: ``(n,)``, how far each point misses the constraints, 0 where it meets them; None:
            all meet them.

    Returns:
        int64 ``(n,)``.
    """
    better = _domination(_matrix(points), violation)
    dominators = better.sum(axis=0)
    result = np.full(len(better), -1, dtype=np.int64)
    rank = 0
    while (result < 0).any():
        front = (dominators == 0) & (result < 0)
        result[front] = rank
        dominators = dominators - better[front].sum(axis=0)
        rank += 1
    return result


def crowding(points: npt.ArrayLike) -> Array:
    """Crowding distance of the points of a front, float64 ``(n,)``; infinite at its ends.

    NSGA-II, section III-B.
    """
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


def _matrix(points: npt.ArrayLike) -> Array:
    matrix = np.asarray(points, dtype=np.float64)  # None becomes NaN
    if matrix.size == 0:
        return matrix.reshape(0, 1)
    if matrix.ndim != 2:
        raise ValueError(f"points must be (n, objectives), not {matrix.shape}")
    return np.where(np.isnan(matrix), np.inf, matrix)


def _domination(points: Array, violation: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    """bool ``(n, n)``: row dominates column."""
    nowhere_worse = (points[:, None] <= points[None]).all(axis=2)
    somewhere_better = (points[:, None] < points[None]).any(axis=2)
    pareto = nowhere_worse & somewhere_better
    if violation is None:
        return np.asarray(pareto, dtype=np.bool_)
    miss = np.maximum(np.nan_to_num(np.asarray(violation, dtype=np.float64), nan=np.inf), 0.0)
    return np.asarray((miss[:, None] < miss[None]) | ((miss[:, None] == miss[None]) & pareto), dtype=np.bool_)

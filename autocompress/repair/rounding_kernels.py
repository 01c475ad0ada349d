"""The inner loops of rounding: one column after the other, inside a block of columns.

The effect of a block on the columns behind it is a matrix product in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _level(value: float, scale: float, low: float, step: float, last: int) -> float:
    index = np.rint((value / scale - low) / step)
    return (low + step * min(max(index, 0.0), float(last))) * scale


@njit(cache=True, nogil=True)
def round_block(
    weight: Any, rounded: Any, upper: Any, scale: Any, low: float, step: float, last: int, first: int, end: int
) -> None:
    """Rounds columns ``first`` to ``end`` and spreads each column's error over those behind it.

    Args:
        weight: ``[rows, width]``, changed: its columns of the block become the errors, each divided
            by the diagonal of ``upper``.
        rounded: ``[rows, width]``, gets the levels.
        upper: U with U^T U the inverse of the system, ``[width, width]``.
        scale: scale of each row.
        low, step, last: the lowest level, the distance of levels, the index of the highest one.
        first, end: columns.
    """
    for row in range(weight.shape[0]):
        size = scale[row]
        for column in range(first, end):
            value = weight[row, column]
            level = _level(value, size, low, step, last)
            rounded[row, column] = level
            error = (value - level) / upper[column, column]
            weight[row, column] = error
            for other in range(column + 1, end):
                weight[row, other] -= error * upper[column, other]


@njit(cache=True, nogil=True)
def descend_block(
    rounded: Any,
    slope: Any,
    change: Any,
    system: Any,
    scale: Any,
    low: float,
    step: float,
    last: int,
    first: int,
    end: int,
) -> int:
    """Moves each weight of columns ``first`` to ``end`` to its best level, with the others fixed.

    Args:
        rounded: Q, ``[rows, width]``, changed.
        slope: (Q - W) G at the columns of the block, ``[rows, end - first]``, kept up to date.
        change: gets the change of Q, ``[rows, end - first]``.
        system: G, ``[width, width]``.
        scale, low, step, last, first, end: as in :func:`round_block`.

    Returns:
        Number of weights that moved.
    """
    moved = 0
    for row in range(rounded.shape[0]):
        size = scale[row]
        for column in range(first, end):
            before = rounded[row, column]
            best = before - slope[row, column - first] / system[column, column]
            level = _level(best, size, low, step, last)
            by = level - before
            change[row, column - first] = by
            if by != 0:
                moved += 1
                rounded[row, column] = level
                for other in range(column + 1, end):
                    slope[row, other - first] += by * system[column, other]
    return moved

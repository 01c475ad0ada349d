"""Hypervolume: the part of a space that a front dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autocompress.objectives.dominance import Front
from autocompress.objectives.quantities import POINTS

BEST_LOG_SPEEDUP = 5.0
"""log2 of the largest speed-up that counts: 32x."""


def hypervolume(points: Sequence[Sequence[float | None]], reference: Sequence[float]) -> float:
    """Volume of the space that ``points`` dominate and that lies below ``reference``. Exact.

    Two objectives take a sweep; more take the recursion of WFG (While, Bradstreet, Barone, A Fast
    Way of Calculating Exact Hypervolumes, IEEE Transactions on Evolutionary Computation, 2012).
    Optuna has the same algorithm, but not in its public interface.

    Args:
        points: objective values, any number of objectives; lower is better. A point with a missing
            value (None or NaN) adds nothing.
        reference: the worst value of each objective that counts. All of them are finite.

    Raises:
        ValueError: if a point does not have as many values as ``reference``.
    """
    front: Front[None] = Front()
    for number, point in enumerate(points):
        if len(point) != len(reference):
            raise ValueError(f"a point has {len(point)} values, the reference {len(reference)}")
        gains = [math.nan if value is None else worst - value for value, worst in zip(point, reference, strict=True)]
        if all(gain > 0 for gain in gains):
            front.add([-gain for gain in gains], None, number)
    return _volume([tuple(-value for value in point) for point in front.points])


def _volume(front: list[tuple[float, ...]]) -> float:
    """Volume of the union of the boxes from 0 to each corner of ``front``.

    No box contains another.
    """
    if not front:
        return 0.0
    ordered = sorted(front, reverse=True)
    if len(ordered[0]) == 1:
        return ordered[0][0]
    if len(ordered[0]) == 2:
        nexts = [corner[0] for corner in ordered[1:]] + [0.0]
        return math.fsum((corner[0] - after) * corner[1] for corner, after in zip(ordered, nexts, strict=True))
    # Each box adds its volume to the boxes behind it, less the volume that it shares with them.
    return math.fsum(
        math.prod(corner) - _volume(_shared(corner, ordered[index + 1 :])) for index, corner in enumerate(ordered)
    )


def _shared(corner: tuple[float, ...], others: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Corners of the boxes that ``others`` share with the box at ``corner``.

    Boxes within another one are left out.
    """
    front: Front[None] = Front()
    for number, other in enumerate(others):
        front.add([-min(a, b) for a, b in zip(corner, other, strict=True)], None, number)
    return [tuple(-value for value in point) for point in front.points]


class SpeedFront:
    """The hypervolume of the models of a search so far: the dominated share of a square.

    One side of the square is the accuracy drop, from 0 to 10 points; a gain of accuracy is treated
    as no drop. The other side is log2 of the speed-up, from 1x to 32x. This is the hypervolume that
    the benchmarks compare.
    """

    def __init__(self) -> None:
        self._front: Front[None] = Front()
        self._added = 0
        self.hypervolume = 0.0

    def add(self, drop: float | None, ratio: float | None) -> float:
        """Adds a model; it is compared with the front only.

        Args:
            drop: points of accuracy below the baseline.
            ratio: latency divided by the baseline's.

        Returns:
            The gain of hypervolume: 0 if a figure is missing (None or NaN).

        Raises:
            ValueError: if ``ratio`` is 0 or less.
        """
        if drop is None or ratio is None or math.isnan(drop) or math.isnan(ratio):
            return 0.0
        if ratio <= 0:
            raise ValueError("a latency ratio must be greater than 0")
        kept = 1.0 - min(max(drop / POINTS, 0.0), 1.0)
        speed = min(max(-math.log2(ratio), 0.0), BEST_LOG_SPEEDUP) / BEST_LOG_SPEEDUP
        self._added += 1
        if not kept or not speed or not self._front.add((-speed, -kept), None, self._added):
            return 0.0
        before = self.hypervolume
        corners = [tuple(-value for value in point) for point in self._front.points]
        self.hypervolume = max(before, min(_volume(corners), 1.0))
        return self.hypervolume - before


def speed_hypervolume(drop: npt.ArrayLike, ratio: npt.ArrayLike) -> float:
    """The hypervolume of :class:`SpeedFront` for ``(n,)`` accuracy drops and latency ratios."""
    reached = progress(drop, ratio)
    return float(reached[-1]) if len(reached) else 0.0


def progress(drop: npt.ArrayLike, ratio: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """:func:`speed_hypervolume` of the first model, the first two, and so on; float64 ``(n,)``."""
    front = SpeedFront()
    drops, ratios = np.asarray(drop, dtype=np.float64), np.asarray(ratio, dtype=np.float64)
    reached = np.zeros(len(drops))
    for index, (one_drop, one_ratio) in enumerate(zip(drops.tolist(), ratios.tolist(), strict=True)):
        front.add(one_drop, one_ratio)
        reached[index] = front.hypervolume
    return reached

"""Dominance: ranks and fronts against brute force, with missing values."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autocompress.objectives.dominance import Front, comparable, crowding, dominates, non_dominated, ranks

calm = settings(deadline=None, max_examples=60)
coordinates = st.integers(0, 5).map(float)
points = st.integers(1, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(0, 12), st.just(m)), elements=coordinates)
)


def beats(ours: np.ndarray, theirs: np.ndarray, our_miss: float, their_miss: float) -> bool:
    if our_miss != their_miss:
        return our_miss < their_miss
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and any(
        a < b for a, b in zip(ours, theirs, strict=True)
    )


def brute_ranks(matrix: np.ndarray, misses: np.ndarray) -> list[int]:
    """Removes one front after another from the points."""
    left, found, rank = set(range(len(matrix))), {}, 0
    while left:
        front = {i for i in left if not any(beats(matrix[j], matrix[i], misses[j], misses[i]) for j in left)}
        found |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    return [found[i] for i in range(len(matrix))]


@calm
@given(points)
def test_ranks_are_those_of_successive_fronts(matrix: np.ndarray) -> None:
    assert ranks(matrix).tolist() == brute_ranks(matrix, np.zeros(len(matrix)))
    assert non_dominated(matrix).tolist() == [rank == 0 for rank in ranks(matrix)]


@calm
@given(points, st.data())
def test_a_smaller_violation_comes_first(matrix: np.ndarray, data: st.DataObject) -> None:
    misses = data.draw(arrays(np.float64, len(matrix), elements=st.sampled_from([0.0, 0.0, 0.5, 2.0])))
    assert ranks(matrix, misses).tolist() == brute_ranks(matrix, misses)
    assert non_dominated(matrix, misses).tolist() == [rank == 0 for rank in ranks(matrix, misses)]


def test_a_feasible_point_precedes_all_infeasible_ones() -> None:
    assert ranks([[9.0, 9.0], [1.0, 1.0], [2.0, 0.0]], [0.0, 0.1, 0.1]).tolist() == [0, 1, 1]


def test_a_negative_violation_counts_as_zero() -> None:
    assert ranks([[1.0], [2.0]], [-0.1, -5.0]).tolist() == [0, 1]


def test_a_missing_figure_is_infinitely_bad() -> None:
    assert ranks([[1.0, np.nan], [1.0, 3.0]]).tolist() == [1, 0]


def test_equal_points_share_the_front() -> None:
    assert non_dominated([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]).tolist() == [True, True, False]


def test_points_must_be_a_matrix() -> None:
    with pytest.raises(ValueError, match="objectives"):
        ranks([1.0, 2.0])


def test_crowding_prefers_isolated_points() -> None:
    found = crowding([[0.0, 4.0], [1.0, 2.0], [1.1, 1.9], [4.0, 0.0]])
    assert np.isinf(found[[0, 3]]).all()
    # Normalised gaps between the neighbours: 1.1/4 + 2.1/4 and 3/4 + 2/4.
    assert found[1:3] == pytest.approx([3.2 / 4, 5 / 4])
    assert np.isinf(crowding([[1.0, 2.0]])).all()


missing = st.integers(0, 19).map(lambda k: None if k == 18 else math.nan if k == 19 else float(k % 6))
gappy = st.integers(1, 4).flatmap(lambda m: st.lists(st.lists(missing, min_size=m, max_size=m), max_size=12))


@calm
@given(gappy, st.randoms(use_true_random=False))
def test_the_front_equals_brute_force_in_any_order(points: list[list[float | None]], random: random.Random) -> None:
    front: Front[int] = Front()
    order = list(range(len(points)))
    random.shuffle(order)
    for done, number in enumerate(order, start=1):
        is_on_it = front.add(points[number], number, number)
        assert is_on_it == (number in front.items)
        there = sorted(order[:done])
        dominated = {j for j in there if any(dominates(points[i], points[j]) for i in there)}
        twins = {j for j in there for i in there if i < j and comparable(points[i]) == comparable(points[j])}
        assert front.items == [number for number in there if number not in dominated | twins]
    assert front.points == [comparable(points[number]) for number in front.items]
    assert len(front) == len(front.items)


@calm
@given(gappy.filter(len))
def test_a_missing_value_is_never_better_than_a_known_one(points: list[list[float | None]]) -> None:
    for ours in points:
        for theirs in points:
            if any(is_missing(a) and not is_missing(b) for a, b in zip(ours, theirs, strict=True)):
                assert not dominates(ours, theirs)
    unknown: list[float | None] = [None] * len(points[0])
    assert not any(dominates(unknown, point) for point in points)
    assert not dominates([math.nan] * len(unknown), unknown)
    assert non_dominated(np.array(points, dtype=object)).any(), "a matrix may contain None and NaN"


def is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def test_adding_to_a_front_compares_with_the_front_only() -> None:
    """Counts comparisons for 2,000 points, three of which are on the front."""
    compared = 0

    class Counted(float):
        def __le__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return float(self) <= float(other)  # type: ignore[arg-type]

    front: Front[int] = Front()
    for number, corner in enumerate([(1, 3), (2, 2), (3, 1)] + [(5, 5)] * 2000):
        front.add(tuple(map(Counted, corner)), number, number)
    assert front.items == [0, 1, 2]
    assert compared < 20 * 2000


def test_points_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        dominates([1.0, 2.0], [1.0])

"""Fronts: ranks against a brute-force reading of the definition, hypervolume against counting a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autocompress.report.front import crowding, hypervolume, non_dominated, progress, ranks

calm = settings(deadline=None, max_examples=60)
coordinates = st.integers(0, 5).map(float)
points = st.integers(1, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(0, 12), st.just(m)), elements=coordinates)
)
drops = st.lists(st.tuples(st.floats(-2, 14), st.floats(0.01, 1.5)), max_size=8)


def dominates(ours: np.ndarray, theirs: np.ndarray, our_miss: float = 0.0, their_miss: float = 0.0) -> bool:
    if our_miss != their_miss:
        return our_miss < their_miss
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and any(
        a < b for a, b in zip(ours, theirs, strict=True)
    )


def brute_ranks(matrix: np.ndarray, misses: np.ndarray) -> list[int]:
    """Peels one front after another off the points."""
    left, found, rank = set(range(len(matrix))), {}, 0
    while left:
        front = {i for i in left if not any(dominates(matrix[j], matrix[i], misses[j], misses[i]) for j in left)}
        found |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    return [found[i] for i in range(len(matrix))]


@calm
@given(points)
def test_ranks_peel_fronts(matrix: np.ndarray) -> None:
    assert ranks(matrix).tolist() == brute_ranks(matrix, np.zeros(len(matrix)))
    assert non_dominated(matrix).tolist() == [rank == 0 for rank in ranks(matrix)]


@calm
@given(points, st.data())
def test_what_violates_less_comes_first(matrix: np.ndarray, data: st.DataObject) -> None:
    misses = data.draw(arrays(np.float64, len(matrix), elements=st.sampled_from([0.0, 0.0, 0.5, 2.0])))
    assert ranks(matrix, misses).tolist() == brute_ranks(matrix, misses)
    assert non_dominated(matrix, misses).tolist() == [rank == 0 for rank in ranks(matrix, misses)]


def test_one_feasible_point_beats_all_infeasible_ones() -> None:
    assert ranks([[9.0, 9.0], [1.0, 1.0], [2.0, 0.0]], [0.0, 0.1, 0.1]).tolist() == [0, 1, 1]


def test_negative_violation_is_no_merit() -> None:
    assert ranks([[1.0], [2.0]], [-0.1, -5.0]).tolist() == [0, 1]


def test_a_missing_figure_is_infinitely_bad() -> None:
    assert ranks([[1.0, np.nan], [1.0, 3.0]]).tolist() == [1, 0]


def test_equal_points_share_the_front() -> None:
    assert non_dominated([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]).tolist() == [True, True, False]


def test_points_must_be_a_matrix() -> None:
    with pytest.raises(ValueError, match="objectives"):
        ranks([1.0, 2.0])


def test_crowding_prefers_lonely_points() -> None:
    found = crowding([[0.0, 4.0], [1.0, 2.0], [1.1, 1.9], [4.0, 0.0]])
    assert np.isinf(found[[0, 3]]).all()
    # Normalised gaps between the neighbours: 1.1/4 + 2.1/4 and 3/4 + 2/4.
    assert found[1:3] == pytest.approx([3.2 / 4, 5 / 4])
    assert np.isinf(crowding([[1.0, 2.0]])).all()


@calm
@given(drops)
def test_hypervolume_is_the_area_that_a_grid_counts(pairs: list[tuple[float, float]]) -> None:
    drop, ratio = [p[0] for p in pairs], [p[1] for p in pairs]
    cells = (np.arange(200) + 0.5) / 200
    covered = np.zeros((200, 200), dtype=bool)
    for one_drop, one_ratio in pairs:
        kept, speed = 1 - np.clip(one_drop / 10, 0, 1), np.clip(-np.log2(one_ratio) / 5, 0, 1)
        covered |= (cells[:, None] < kept) & (cells[None] < speed)
    assert hypervolume(drop, ratio) == pytest.approx(covered.mean(), abs=0.011)


@calm
@given(drops, st.tuples(st.floats(-2, 14), st.floats(0.01, 1.5)))
def test_a_point_more_never_lowers_hypervolume(pairs: list[tuple[float, float]], more: tuple[float, float]) -> None:
    before = hypervolume([p[0] for p in pairs], [p[1] for p in pairs])
    after = hypervolume([p[0] for p in [more, *pairs]], [p[1] for p in [more, *pairs]])
    assert before - 1e-12 <= after <= 1


def test_hypervolume_of_known_fronts() -> None:
    assert hypervolume([], []) == 0
    assert hypervolume([0.0], [1 / 32]) == 1
    assert hypervolume([0.0] * 5, [0.3, 0.3, 0.1875, 0.25, 1 / 32]) == 1  # not a last digit more
    assert hypervolume([5.0], [0.5]) == pytest.approx(0.1)
    assert hypervolume([10.0, 0.0, np.nan], [1 / 32, 1.0, 0.1]) == 0
    # Magnitude pruning at five ratios, then 8 bits.
    assert hypervolume([0.4, 0.7, 2.4, 9.0], [0.30, 0.19, 0.10, 0.06]) == pytest.approx(0.61, abs=0.005)
    with pytest.raises(ValueError, match="greater than 0"):
        hypervolume([1.0], [0.0])


@calm
@given(drops)
def test_progress_is_the_hypervolume_of_each_beginning(pairs: list[tuple[float, float]]) -> None:
    drop, ratio = [p[0] for p in pairs], [p[1] for p in pairs]
    wanted = [hypervolume(drop[:end], ratio[:end]) for end in range(1, len(pairs) + 1)]
    assert progress(drop, ratio).tolist() == pytest.approx(wanted)

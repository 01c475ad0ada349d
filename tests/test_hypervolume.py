"""Hypervolume, compared with inclusion-exclusion, a grid, and the scorer of the benchmarks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.objectives.hypervolume import SpeedFront, hypervolume, progress, speed_hypervolume

calm = settings(deadline=None, max_examples=60)
models = st.tuples(st.floats(-2, 14), st.floats(0.01, 1.5))
drops = st.lists(models, max_size=8)
# One value in ten is missing. A value below the reference, 5, adds volume.
values = st.integers(-1, 18).map(lambda k: None if k == 17 else math.nan if k == 18 else float(k % 6 - 1))
spaces = st.integers(1, 5).flatmap(lambda m: st.lists(st.lists(values, min_size=m, max_size=m), min_size=1, max_size=6))


def by_inclusion_and_exclusion(points: list[list[float | None]], reference: list[float]) -> float:
    """The volume of a union of boxes, from the volumes of all their intersections."""
    boxes = [
        [max(0.0, worst - value) for value, worst in zip(point, reference, strict=True)]  # type: ignore[operator]
        for point in points
        if not any(value is None or math.isnan(value) for value in point)
    ]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            total += (-1) ** (size + 1) * math.prod(min(sides) for sides in zip(*chosen, strict=True))
    return total


@calm
@given(spaces)
def test_any_number_of_objectives_with_missing_values(points: list[list[float | None]]) -> None:
    reference = [5.0] * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference), abs=1e-9)


@calm
@given(spaces)
def test_another_point_never_lowers_the_volume_and_a_dominated_one_adds_nothing(
    points: list[list[float | None]],
) -> None:
    reference = [5.0] * len(points[0])
    before, whole = hypervolume(points[1:], reference), hypervolume(points, reference)
    assert before <= whole + 1e-9
    worse = [None if value is None else value + 1 for value in points[0]]
    assert hypervolume([*points, worse], reference) == pytest.approx(whole, abs=1e-9)


def test_known_volumes() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0
    assert hypervolume([[0.0, 0.0, 0.0]], [1.0, 2.0, 3.0]) == 6
    assert hypervolume([[0.0, 1.0], [1.0, 0.0]], [2.0, 2.0]) == 3
    assert hypervolume([[3.0, 0.0]], [2.0, 2.0]) == 0, "beyond the reference point"
    with pytest.raises(ValueError, match="3 values, the reference 2"):
        hypervolume([[0.0, 0.0, 0.0]], [1.0, 1.0])


@calm
@given(drops)
def test_the_area_of_a_speed_front_is_that_of_a_grid(pairs: list[tuple[float, float]]) -> None:
    cells = (np.arange(200) + 0.5) / 200
    covered = np.zeros((200, 200), dtype=bool)
    for drop, ratio in pairs:
        kept, speed = 1 - np.clip(drop / 10, 0, 1), np.clip(-np.log2(ratio) / 5, 0, 1)
        covered |= (cells[:, None] < kept) & (cells[None] < speed)
    assert speed_hypervolume(*columns(pairs)) == pytest.approx(covered.mean(), abs=0.011)


def benchmark_score(points: list[tuple[float, float]], drop_max: float = 10.0, doublings: int = 5) -> float:
    """The score of the benchmarks for fronts of other tools, implemented again."""
    worth = sorted((max(0.0, d), min(1.0, -math.log2(r) / doublings)) for d, r in points if d < drop_max and r < 1.0)
    best, front, area = 0.0, [], 0.0
    for drop, gain in worth:
        if gain > best:
            front.append((drop, gain))
            best = gain
    for index, (drop, gain) in enumerate(front):
        following = front[index + 1][0] if index + 1 < len(front) else drop_max
        area += (following - drop) * gain
    return area / drop_max


@calm
@given(drops)
def test_a_speed_front_has_the_score_of_the_benchmarks(pairs: list[tuple[float, float]]) -> None:
    assert speed_hypervolume(*columns(pairs)) == pytest.approx(benchmark_score(pairs), abs=1e-12)


@calm
@given(drops, models)
def test_gains_are_additive_and_never_negative(pairs: list[tuple[float, float]], more: tuple[float, float]) -> None:
    front = SpeedFront()
    gains = [front.add(*pair) for pair in [*pairs, more]]
    assert min(gains) >= 0
    assert sum(gains) == pytest.approx(front.hypervolume)
    assert front.hypervolume <= 1
    assert front.add(*more) == 0, "a model that is on the front already"
    assert front.hypervolume == pytest.approx(speed_hypervolume(*columns([more, *pairs])))


def test_known_fronts() -> None:
    assert speed_hypervolume([], []) == 0
    assert speed_hypervolume([0.0], [1 / 32]) == 1
    assert speed_hypervolume([0.0] * 5, [0.3, 0.3, 0.1875, 0.25, 1 / 32]) == 1  # only rounding may differ
    assert speed_hypervolume([5.0], [0.5]) == pytest.approx(0.1)
    assert speed_hypervolume([10.0, 0.0, np.nan], [1 / 32, 1.0, 0.1]) == 0
    # Magnitude pruning at five ratios, then 8 bits.
    assert speed_hypervolume([0.4, 0.7, 2.4, 9.0], [0.30, 0.19, 0.10, 0.06]) == pytest.approx(0.61, abs=0.005)
    with pytest.raises(ValueError, match="greater than 0"):
        speed_hypervolume([1.0], [0.0])
    assert SpeedFront().add(None, 0.5) == SpeedFront().add(1.0, None) == SpeedFront().add(math.nan, 0.5) == 0


@calm
@given(drops)
def test_progress_is_the_hypervolume_of_the_first_rows(pairs: list[tuple[float, float]]) -> None:
    drop, ratio = columns(pairs)
    wanted = [speed_hypervolume(drop[:end], ratio[:end]) for end in range(1, len(pairs) + 1)]
    assert progress(drop, ratio).tolist() == pytest.approx(wanted)


def columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [drop for drop, _ in pairs], [ratio for _, ratio in pairs]

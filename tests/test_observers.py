"""Observers: the range of each, however the data are divided into batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.quantization.histograms import Entropy, Histogram, MeanSquaredError, Percentile, divergence
from autocompress.quantization.observers import MinMax, MovingAverage, Observer, least_squares, minmax
from autocompress.quantization.ops import dequantize
from autocompress.quantization.scales import (
    Levels,
    affine,
    quantize,
    signed_levels,
    symmetric,
    unsigned_levels,
)

LEVELS = unsigned_levels(8)
ALL = [MinMax, MovingAverage, Percentile, lambda: MeanSquaredError(LEVELS), lambda: Entropy(LEVELS)]
IDS = ["minmax", "ema_minmax", "percentile", "mse", "entropy"]


def ends(observer: Observer) -> tuple[float, float]:
    low, high = observer.range()
    return float(low), float(high)


def error(x: torch.Tensor, low: float, high: float, levels: Levels = LEVELS) -> float:
    grid = affine(torch.tensor(low), torch.tensor(high), levels)
    return float((dequantize(quantize(x, *grid, levels), *grid) - x).square().mean())


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_the_range_of_a_constant_is_the_constant(make: type[Observer]) -> None:
    observer = make()
    for _ in range(3):
        observer.observe(torch.full((2, 3), 0.7))
    assert ends(observer) == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_without_data_there_is_no_range(make: type[Observer]) -> None:
    observer = make()
    observer.observe(torch.zeros(0, 3))
    with pytest.raises(RuntimeError, match="before it saw"):
        observer.range()


@pytest.mark.parametrize("make", ALL, ids=IDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinite_values_give_a_range_that_is_not_finite(make: type[Observer], bad: float) -> None:
    observer = make()
    observer.observe(torch.tensor([1.0, bad]))
    observer.observe(torch.tensor([1.0, 2.0]))
    assert not all(math.isfinite(end) for end in ends(observer))


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_ranges_stay_within_the_values(make: type[Observer]) -> None:
    for seed, size in enumerate((1e-20, 1e-3, 1.0, 1e6)):
        observer, x = make(), size * normal(seed, 3000)
        observer.observe(x)
        low, high = ends(observer)
        assert float(x.min()) <= low < high <= float(x.max())


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_zeros_followed_by_values(make: type[Observer]) -> None:
    """The first batch is that of a dead ReLU."""
    observer = make()
    observer.observe(torch.zeros(100))
    assert ends(observer) == (0.0, 0.0)
    observer.observe(normal(0, 1000).relu())
    low, high = ends(observer)
    assert low == 0.0
    assert high > 0.0


def test_moving_average_starts_with_the_first_batch() -> None:
    observer = MovingAverage(decay=0.9)
    observer.observe(torch.tensor([-1.0, 4.0]))
    assert ends(observer) == (-1.0, 4.0)
    observer.observe(torch.tensor([-2.0, 2.0]))
    assert ends(observer) == pytest.approx((-1.1, 3.8))


def test_min_max_takes_all_batches() -> None:
    observer = MinMax()
    for batch in ([-1.0, 4.0], [-2.0, 2.0], [0.0, 1.0]):
        observer.observe(torch.tensor(batch))
    assert ends(observer) == (-2.0, 4.0)


@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=4), st.lists(st.integers(-20, 20), min_size=4, max_size=4))
def test_a_histogram_does_not_depend_on_the_order_and_counts_every_value(seeds: list[int], powers: list[int]) -> None:
    batches = [2.0**power * normal(seed, 500) for seed, power in zip(seeds, powers, strict=False)]
    one, other, whole = (Percentile(90.0) for _ in range(3))
    for batch in batches:
        one.observe(batch)
    for batch in reversed(batches):
        other.observe(batch)
    whole.observe(torch.cat(batches))
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.counts, whole.counts)
    assert float(one.counts.sum()) == 500 * len(batches)
    assert ends(one) == ends(other) == ends(whole)


def test_histogram_counts_are_in_the_right_bins() -> None:
    observer, x = Percentile(), normal(0, 5000)
    observer.observe(x)
    assert float((observer.counts * observer.centres).sum()) == pytest.approx(float(x.double().sum()), abs=5000 * 1e-3)
    assert len(observer.counts) == Histogram.BINS


def test_percentile_excludes_its_share() -> None:
    x = torch.linspace(-1, 1, 100_001)
    observer = Percentile(99.0)
    observer.observe(x)
    assert ends(observer) == pytest.approx((-0.99, 0.99), abs=1e-3)
    observer = Percentile(99.0)
    observer.observe(x.clamp(min=0))  # one-sided, so all of the share is above
    assert ends(observer) == pytest.approx((0.0, 0.98), abs=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", ["normal", "relu", "skewed"])
def test_mse_is_never_worse_than_the_whole_range(bits: int, shape: str) -> None:
    levels = unsigned_levels(bits)
    x = normal(bits, 50_000)
    x = {"normal": x, "relu": x.relu(), "skewed": x.exp() - 1.0}[shape]
    observer = MeanSquaredError(levels)
    observer.observe(x)
    whole = error(x, float(x.min()), float(x.max()), levels)
    assert error(x, *ends(observer), levels) < whole * (1.01 if bits == 8 else 0.9)


def test_mse_optimises_both_ends_separately() -> None:
    """One outlier is far below. The values above need their whole range."""
    x = torch.cat([torch.rand(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([-3.0])])
    observer = MeanSquaredError(unsigned_levels(4))
    observer.observe(x)
    low, high = ends(observer)
    assert low > -1.0
    assert high == pytest.approx(1.0, abs=0.1)


def test_entropy_clips_outliers_and_keeps_a_plain_range() -> None:
    x = normal(0, 100_000)
    with_outliers, plain = Entropy(LEVELS), Entropy(LEVELS)
    with_outliers.observe(torch.cat([x, torch.tensor([-60.0, 60.0])]))
    assert ends(with_outliers)[1] < 15.0
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    plain.observe(uniform)
    assert ends(plain) == pytest.approx((0.0, 1.0), abs=0.02)


def test_entropy_ignores_the_zeros_of_a_relu() -> None:
    x = normal(0, 100_000).relu()
    observer = Entropy(LEVELS)
    observer.observe(x)
    assert error(x, *ends(observer)) < 4 * error(x, 0.0, float(x.max()))


def test_divergence_is_zero_for_an_exact_grid_and_positive_with_clipping() -> None:
    counts = torch.ones(64, dtype=torch.float64)
    assert divergence(counts, 64, 16) == pytest.approx(0.0, abs=1e-12)
    costs = [divergence(counts, bins, 16) for bins in (64, 56, 48, 32)]
    assert costs == sorted(costs)
    assert divergence(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 2, 2) == math.inf


@given(st.integers(2, 8), st.integers(0, 2**31), st.sampled_from([None, 0, 1]), st.booleans())
def test_least_squares_of_a_weight_are_better_than_its_extremes(
    bits: int, seed: int, axis: int | None, is_symmetric: bool
) -> None:
    weight = normal(seed, 4, 5, 3, 3) ** 3
    levels = signed_levels(bits, narrow=is_symmetric)
    results = []
    for low, high in (least_squares(weight, levels, is_symmetric, axis), minmax(weight, axis)):
        assert low.shape == (() if axis is None else (weight.shape[axis],))
        grid = (symmetric if is_symmetric else affine)(low, high, levels)
        codes = quantize(weight, *grid, levels, axis)
        results.append(float((dequantize(codes, *grid, axis) - weight).square().sum()))
    assert results[0] <= results[1] * (1 + 1e-6)

"""Intervals, compared with scipy and their definition, and their coverage."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, binomtest

from autocompress.objectives.intervals import one_image, paired_difference, wilson

calm = settings(deadline=None, max_examples=60)
counts = st.integers(1, 5000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images)))
flags = st.integers(1, 300).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n)))


@calm
@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(count: tuple[int, int], confidence: float) -> None:
    found = wilson(*count, confidence)
    theirs = binomtest(*count).proportion_ci(confidence, method="wilson")
    assert (found.low / 100, found.high / 100) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= found.low <= found.estimate <= found.high <= 100


@calm
@given(counts.filter(lambda count: 0 < count[0] < count[1]))
def test_the_ends_of_wilsons_interval_are_just_not_rejected(count: tuple[int, int]) -> None:
    correct, images = count
    found = wilson(correct, images)
    for end in (found.low / 100, found.high / 100):
        score = abs(correct / images - end) / sqrt(end * (1 - end) / images)
        assert score == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("impossible", [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(impossible: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be correct"):
        wilson(*impossible)


@calm
@given(flags)
def test_the_paired_difference_is_antisymmetric_and_contains_its_estimate(both: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = both
    found, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert found.estimate == pytest.approx(100 * (np.mean(ours) - np.mean(theirs)), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low))
    assert -100 <= found.low <= found.high <= 100
    assert found.high - found.low > 0


def test_pairing_narrows_the_interval() -> None:
    baseline = np.arange(2000) % 10 != 0
    candidate = baseline.copy()
    candidate[[1, 2, 3, 4, 5, 6, 10, 20]] ^= True  # six lost, two won
    found = paired_difference(candidate, baseline)
    assert found.estimate == pytest.approx(-0.2)
    alone = wilson(int(candidate.sum()), 2000)
    assert (found.high - found.low) < 0.3 * (alone.high - alone.low)


def test_equal_models_have_an_interval_too() -> None:
    found = paired_difference(np.ones(100, bool), np.ones(100, bool))
    assert found.estimate == 0
    assert found.low < -1
    assert found.high > 1


@pytest.mark.parametrize(("won", "lost"), [(0.01, 0.01), (0.02, 0.05), (0.1, 0.2), (0.0, 0.01)])
def test_paired_difference_covers_the_truth(won: float, lost: float) -> None:
    """It is computed exactly: every outcome of 100 images is weighted with its probability."""
    images, covered = 100, 0.0
    for lost_count in range(images + 1):
        chance_lost = binom.pmf(lost_count, images, lost)
        if chance_lost < 1e-9:
            continue
        for won_count in range(images - lost_count + 1):
            chance = chance_lost * binom.pmf(won_count, images - lost_count, won / (1 - lost))
            if chance < 1e-9:
                continue
            ours = np.zeros(images, bool)
            theirs = np.zeros(images, bool)
            ours[:won_count] = True
            theirs[won_count : won_count + lost_count] = True
            found = paired_difference(ours, theirs)
            covered += chance * (found.low <= 100 * (won - lost) <= found.high)
    assert covered > 0.93


def test_models_with_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="one bool per image"):
        paired_difference([True], [True, False])
    with pytest.raises(ValueError, match="one bool per image"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, 1.0)


def test_one_image() -> None:
    assert one_image(360) == pytest.approx(0.278, abs=0.001)

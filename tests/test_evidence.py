"""The benchmarks that repeat tables of papers decide from their rows whether a claim holds.

Differences are averaged over seeds, each claim gets a verdict, and an interrupted run keeps its
rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.objectives.intervals import paired_difference
from shared.orders import Claim, Difference, difference, judged, verdict
from shared.rows import Rows, packed, unpacked

BETTER, AS_GOOD = Claim("better", "a", "b"), Claim("as good", "a", "b", margin=1.0)


def flags(seed: int, share: float, images: int = 3000) -> np.ndarray:
    return np.random.default_rng(seed).random(images) < share


def test_one_seed_gives_the_paired_difference_of_the_report() -> None:
    ours, theirs = flags(0, 0.8), flags(1, 0.7)
    found, expected = difference([ours], [theirs]), paired_difference(ours, theirs)
    assert found.points == pytest.approx(expected.estimate)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_averaging_seeds_by_image_narrows_the_interval() -> None:
    pairs = [(flags(seed, 0.8), flags(100 + seed, 0.7)) for seed in range(4)]
    one, four = difference(*zip(pairs[0], strict=True)), difference(*zip(*pairs, strict=True))
    assert four.points == pytest.approx(np.mean([100 * (a.mean() - b.mean()) for a, b in pairs]))
    assert four.high - four.low < 0.6 * (one.high - one.low)


def test_other_seeds_or_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds and images"):
        difference([flags(0, 0.5)], [flags(0, 0.5), flags(1, 0.5)])


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        (BETTER, Difference(2, 1, 3, [1.5, 2.5]), "kept"),
        (BETTER, Difference(2, 1, 3, [-0.1, 4.1]), "undecided"),
        (BETTER, Difference(0.5, -0.1, 1.1, [0.5]), "undecided"),
        (BETTER, Difference(-2, -3, -1, [-2]), "reversed"),
        (AS_GOOD, Difference(0.5, 0.1, 0.9, [0.5]), "kept"),
        (AS_GOOD, Difference(0.5, -0.1, 1.1, [0.5]), "undecided"),
        (AS_GOOD, Difference(-2, -3, -1.1, [-2]), "reversed"),
    ],
)
def test_verdicts(claim: Claim, found: Difference, expected: str) -> None:
    assert verdict(claim, found) == expected


def test_a_clear_order_is_kept_and_its_opposite_reversed() -> None:
    good, bad = [flags(0, 0.9)], [flags(1, 0.6)]
    assert judged(BETTER, good, bad)["verdict"] == "kept"
    assert judged(BETTER, bad, good)["verdict"] == "reversed"


def test_flags_are_packed_and_unpacked() -> None:
    for images in (1, 8, 2999):
        assert np.array_equal(unpacked(packed(flags(0, 0.5, images))), flags(0, 0.5, images))


def test_rows_of_an_interrupted_run_are_kept_unless_settings_differ(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    Rows(path, {"epochs": 1}).row("first", lambda: {"accuracy": 50.0})

    def must_not_run() -> dict[str, float]:
        raise AssertionError("the row is there already")

    again = Rows(path, {"epochs": 1})
    assert again.row("first", must_not_run)["accuracy"] == 50.0
    assert Rows(path, {"epochs": 2}).rows == {}

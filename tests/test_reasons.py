"""Reasons that differ only in numbers are told together, with the range of each number."""

from __future__ import annotations

import pytest

from autocompress.report.reasons import kind, together


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["latency 0.9634x, at most 0.5x", "latency 0.6581x, at most 0.5x"],
         "latency 0.6581x to 0.9634x, at most 0.5x"),
        (["accuracy drop 3 points, at most 2", "accuracy drop 12.5 points, at most 2"],
         "accuracy drop 3 to 12.5 points, at most 2"),
        (["drop −0.5", "drop 0.1", "drop −2"], "drop −2 to 0.1"),
        (["it ended after 9 s.", "it ended after 11 s."], "it ended after 9 to 11 s."),
        (["it has 12.", "it has 7."], "it has 7 to 12."),
        (["loss is NaN", "loss is NaN"], "loss is NaN"),
        (["layer1.0.conv1: no room", "layer2.1.conv2: no room"], "layer1.0.conv1 (and others): no room"),
        (["shape [3, 4]", "shape [5, 4]"], "shape [3 to 5, 4]"),
        (["size=3", "size=12"], "size=3 to 12"),
        (["0.conv: no room", "3.conv: no room"], "0.conv (and others): no room"),
        (["latency 0.7x, at most 0.5x"], "latency 0.7x, at most 0.5x"),
        ([r"\1 of 3", r"\1 of 4"], r"\1 of 3 to 4"),
    ],
)  # fmt: skip
def test_numbers_become_ranges(reasons: list[str], told: str) -> None:
    assert len({kind(reason) for reason in reasons}) == 1
    assert together(reasons) == told


def test_other_texts_and_units_stay_apart() -> None:
    assert len(set(map(kind, ["size 3 MB", "size 3 KB", "latency 3 ms", "size"]))) == 4


def test_long_reasons_take_little_time() -> None:
    """A pattern that tries every start of a long word takes minutes here."""
    reasons = [f"{'x' * 1_000_000} at step {step}" for step in (3, 5)]
    assert together(reasons).endswith("x at step 3 to 5")

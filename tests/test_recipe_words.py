"""Recipes and numbers in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.report import words


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ({}, "uncompressed"),
        ({"ghost.ratio.layer1": "none", "bits.weight.layer1": "none", "prune.method": "none"}, "uncompressed"),
        ({"prune.method": "scop", "prune.mode": "inner", "prune.keep.a": 1.0, "scop.mixing": "pre_bn"}, "uncompressed"),
        (
            {
                **{"prune.method": "scop", "prune.mode": "group", "prune.multiple": 8, "scop.mixing": "pre_bn"},
                **{"prune.keep.a.conv": 0.5, "prune.keep.b.conv": 0.5, "repair.fit": "auto", "repair.images": 512},
            },
            "scop keeps 50 % of the channels everywhere",
        ),
        (
            {
                **{"prune.method": "obs", "prune.mode": "inner", "ghost.ratio.a": 2, "recover.epochs": 1},
                **{"prune.keep.a": 0.25, "prune.keep.b": 1.0, "prune.keep.c": 0.75},
            },
            "ghost ratio 2 in a; obs keeps 25 % to 75 % of the channels in 2 of 3 places; 1 epoch of recovery",
        ),
        (
            {"ghost.ratio.a": 2, "ghost.ratio.b": 2, "ghost.kernel": 3, "recover.epochs": 1},
            "ghost ratio 2 everywhere (kernel 3); 1 epoch of recovery",
        ),
        ({"ghost.ratio.a": "none", "ghost.ratio.b": 2}, "ghost ratio 2 in b"),
        ({"ghost.ratio.a": "none", "ghost.kernel": 3}, "uncompressed"),
        ({"quantize.observer": "mse"}, "quantize observer mse"),
        ({"bits.weight.a": "q:4", "qat.epochs": 0}, "int4 everywhere"),
        ({"bits.weight.a": "q:4", "qat.epochs": 2, "qat.lr": 0.1}, "int4 everywhere; 2 epochs of training in low bits"),
        (
            {"bits.weight.stem": "none", "bits.weight.a": "q:8", "bits.activation.a": 8, "bits.weight.b": "q:8"},
            "int8 everywhere but stem (float)",
        ),
        (
            {"bits.weight.a": "q:8", "bits.weight.b": "slb:2", "bits.activation.b": 8},
            "q int8 everywhere but b (slb W2A8)",
        ),
    ],
)
def test_recipes_in_words(recipe: dict[str, Any], text: str) -> None:
    assert words.recipe(recipe) == text


NEUTRAL = {"low.keep": 1.0, "low.rank.a": 9, "low.rank.b": 9}


@pytest.mark.parametrize(
    ("recipe", "text", "idle"),
    [
        ({"low.keep": 1.0, "low.start": "svd"}, "uncompressed", ["low"]),
        ({"low.keep": 0.5, "low.start": "svd"}, "low keep 0.5, start svd", []),
        ({"low.rank.a": 9, "low.rank.b": 4}, "low rank 4 in b", []),
        ({"low.rank.a": 9, "low.rank.b": 9, "ghost.ratio.a": 2}, "ghost ratio 2 in a", ["low"]),
        ({"ghost.ratio.a": "none", "ghost.kernel": 3}, "uncompressed", ["ghost"]),
        (
            {"prune.method": "scop", "scop.mixing": "pre_bn", "prune.keep.a": 1.0, "bits.weight.a": "q:8"},
            "int8 everywhere",
            ["scop"],
        ),
        ({"prune.method": "scop", "prune.keep.a": 0.5}, "scop keeps 50 % of the channels everywhere", []),
        ({"prune.method": "none"}, "uncompressed", []),
    ],
)
def test_neutral_values_are_left_out(recipe: dict[str, Any], text: str, idle: list[str]) -> None:
    assert words.recipe(recipe, NEUTRAL) == text
    assert words.idle(recipe, NEUTRAL) == idle


def test_numbers_in_words() -> None:
    assert [words.size(n) for n in (532, 11_200_000, 999_600)] == ["532 B", "11.2 MB", "1.00 MB"]
    assert [words.microjoules(n) for n in (2.5, 212, 1600)] == ["2.50 µJ", "212 µJ", "1.60 mJ"]
    assert [words.points(n) for n in (0.4, -0.4, -0.001)] == ["+0.40", "\N{MINUS SIGN}0.40", "0.00"]
    assert [words.duration(n) for n in (12.4, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 5 min"]
    assert {words.ratio(np.nan), words.percent(None), words.count(np.nan)} == {words.MISSING}

"""Descriptions of recipes in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.report.story import story

PRUNED = {"prune.method": "obs", "prune.mode": "group", "prune.keep.a": 0.0625, "prune.keep.b": 0.5}


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({}, []),
        ({"bits.weight.a": "none", "prune.keep.a": 1.0}, []),
        (
            {**PRUNED, "repair.fit": "auto", "recover.epochs": 0, "bits.weight.a": "q:8", "bits.activation.a": 8},
            [
                ("Channels", "6 % to 50 % of them are kept everywhere, chosen by obs"),
                ("Training", "none in the recipe; the weights were refitted without it"),
                ("Numbers", "8-bit integers everywhere"),
            ],
        ),
        (
            {**PRUNED, "prune.keep.b": 1.0, "ghost.ratio.a": 2, "recover.epochs": 1, "qat.epochs": 1},
            [
                ("Operators", "ghost ratio 2 in a"),
                ("Channels", "6 % of them are kept in 1 of 2 places, chosen by obs"),
                ("Training", "2 epochs, with the baseline as the teacher"),
            ],
        ),
        (
            {"ghost.ratio.a": "none", "low.rank.a": "none", "bits.weight.a": "q:8", "bits.activation.a": 8},
            [
                ("Numbers", "8-bit integers everywhere"),
                ("Unused", "ghost and low do nothing: the values leave the network as it is"),
            ],
        ),
        (
            {"bits.weight.a": "q:4", "bits.activation.a": 8, "bits.weight.stem": "none", "source": "zskd"},
            [
                ("Numbers", "4-bit weights and 8-bit activations everywhere but stem (float)"),
                ("Images", "made by zskd, because there were none to train on"),
            ],
        ),
    ],
)
def test_a_recipe_is_described_by_its_changes(recipe: dict[str, Any], told: list[tuple[str, str]]) -> None:
    assert story(recipe) == told

"""Importance of parameters: the share of the variance that each of them explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.report.charts.parameter_importance import Importance, explained, importance


def test_importance_is_the_share_that_is_explained() -> None:
    draw = np.random.default_rng(0)
    bits, noise = draw.choice(["4", "8"], 300), draw.normal(size=300)
    assert explained(bits, (bits == "8") * 2.0) == 1.0
    assert explained(bits, (bits == "8") * 2.0 + noise) == pytest.approx(0.5, abs=0.1)  # variances 1 and 1
    assert explained(bits, noise) < 0.05
    assert explained(draw.uniform(size=300), noise) < 0.05  # many values that explain nothing
    assert explained(["a"] * 300, noise) == 0.0
    assert explained(bits, np.full(300, 91.3)) == 0.0


def test_importance_ranks_parameters() -> None:
    draw = np.random.default_rng(1)
    recipes = [{"a": int(draw.integers(3)), "b": int(draw.integers(3))} for _ in range(60)]
    target = [float(recipe["b"]) if index else np.nan for index, recipe in enumerate(recipes)]
    shares = importance(recipes, target)
    assert shares == {"b": Importance(1.0, 1.0, 1.0)}  # the apparent importance of "a" is chance
    assert importance(recipes[:19], target[:19]) == {}


def test_a_fixed_parameter_explains_nothing_even_if_it_is_conditional() -> None:
    draw = np.random.default_rng(2)
    acting = draw.random(40) < 0.5
    recipes: list[dict[str, Any]] = [{"act": bool(acts)} | ({"kernel": 1} if acts else {}) for acts in acting]
    target = (acting * 1.0 + draw.normal(size=40) / 10).tolist()
    shares = importance(recipes, target)
    assert list(shares) == ["act"]
    assert shares["act"].share > 0.9
    assert explained([recipe.get("kernel") for recipe in recipes], target) == 0.0


def test_a_conditional_parameter_explains_a_part_of_the_variance() -> None:
    acting = [index % 2 == 0 for index in range(80)]
    inner = [index // 2 % 2 if acts else None for index, acts in enumerate(acting)]
    target = [float(acts) * 4 + (value or 0) for acts, value in zip(acting, inner, strict=True)]
    total = np.var(target) * 80
    assert explained(inner, target) == pytest.approx(40 * 0.25 / total)


def test_random_recipes_seldom_have_important_parameters() -> None:
    draw = np.random.default_rng(3)
    told = 0
    for _ in range(60):
        recipes = [{f"p{i}": int(draw.integers(3)) for i in range(12)} for _ in range(24)]
        told += bool(importance(recipes, draw.normal(size=24).tolist()))
    assert told <= 8  # 3 are expected


def test_intervals_hold_the_true_share() -> None:
    draw = np.random.default_rng(4)
    held, wide = 0, []
    for _ in range(200):
        recipes = [{"a": int(index % 3)} for index in range(60)]
        target = [recipe["a"] * np.sqrt(1.5) + float(draw.normal()) for recipe in recipes]  # variances 1 and 1
        found = importance(recipes, target)["a"]
        held += found.low <= 0.5 <= found.high
        wide.append(found.high - found.low)
        assert 0.0 <= found.low <= found.share <= found.high <= 1.0
    assert 182 <= held <= 198  # 190 are expected
    assert 0.2 < float(np.mean(wide)) < 0.5


def test_more_trials_give_a_narrower_interval() -> None:
    draw = np.random.default_rng(5)

    def width(trials: int) -> float:
        recipes = [{"a": int(index % 2)} for index in range(trials)]
        found = importance(recipes, [recipe["a"] * 2.0 + float(draw.normal()) for recipe in recipes])["a"]
        return found.high - found.low

    assert width(1000) < width(24) / 3

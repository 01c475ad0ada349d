"""The recommended model of a run, and the other models with a name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from example_run import BASELINE, write_run
from hypothesis import given
from hypothesis import strategies as st

from autocompress import results
from autocompress.objectives.choosing import (
    ACCURATE,
    CHEAPEST,
    TRADE,
    cheapest_by_drop,
    cost_objective,
    named_choices,
    trade,
)

BASE = {"size_bytes": 1000, "macs": 100}
DEMO = [(0.0, 0.0939), (0.28, 0.0899), (1.94, 0.0877)]
"""(points lost, latency ratio). The last model gains 7 % of speed for two points."""


def row(drop: float | None, share: float | None, **more: Any) -> dict[str, Any]:
    return {"accuracy_drop": drop, "latency_ratio": share, **more}


def names(pairs: list[tuple[float | None, float | None]]) -> dict[str, int]:
    return named_choices([row(*pair) for pair in pairs], BASE, "latency")


def test_a_small_gain_in_speed_is_not_worth_two_points() -> None:
    assert names([*DEMO]) == {TRADE: 0, CHEAPEST: 2, ACCURATE: 0}


def test_a_large_gain_in_speed_is_worth_a_point() -> None:
    assert names([(0.0, 0.5), (0.9, 0.25)]) == {TRADE: 1, CHEAPEST: 1, ACCURATE: 0}


def test_the_trade_is_the_hypervolume_of_a_model_alone() -> None:
    assert trade(2.0, 0.25) == 8.0 * 2.0
    assert trade(-1.0, 0.5) == trade(0.0, 0.5) == 10.0, "a gain in accuracy counts as no loss"
    assert [trade(10.0, 0.1), trade(0.0, 1.0), trade(0.0, 2.0), trade(None, 0.1), trade(1.0, None)] == [0.0] * 5
    assert trade(1.0, 0.5) == pytest.approx(trade(0.0, 0.5 / 2 ** (1 / 9) * 2 ** (1 / 9) * 2**0.1))


def test_models_without_figures_come_last() -> None:
    assert names([(None, None), (1.0, None), (0.5, math.nan), (2.0, 0.9)]) == {TRADE: 3, CHEAPEST: 3, ACCURATE: 2}
    assert names([(None, None)]) == {TRADE: 0, CHEAPEST: 0, ACCURATE: 0}
    assert names([]) == {}


def test_if_nothing_is_cheaper_the_most_accurate_is_recommended() -> None:
    assert names([(1.0, 1.1), (0.2, 1.3)]) == {TRADE: 1, CHEAPEST: 0, ACCURATE: 1}


def test_the_cost_is_the_first_one_of_the_job() -> None:
    assert cost_objective(("accuracy", "size", "latency")) == "size"
    assert cost_objective(("accuracy",)) == cost_objective(()) == "latency"
    rows = [row(0.0, 0.1, size_bytes=900), row(0.0, 0.9, size_bytes=100)]
    assert named_choices(rows, BASE, "size")[TRADE] == 1
    assert named_choices(rows, BASE, "latency")[TRADE] == 0


@given(st.lists(st.tuples(st.floats(-2, 12), st.floats(0.01, 2)), min_size=1, max_size=8), st.floats(0, 12))
def test_the_last_model_within_a_loss_is_the_cheapest(pairs: list[tuple[float, float]], allowed: float) -> None:
    found = [pairs[index] for index in cheapest_by_drop([row(*pair) for pair in pairs], BASE, "latency")]
    within = [share for drop, share in pairs if drop <= allowed]
    steps = [share for drop, share in found if drop <= allowed]
    assert steps[-1:] == ([min(within)] if within else [])
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)


def run_with(folder: Path, pairs: list[tuple[float, float]], **job: Any) -> results.SearchResult:
    write_run(folder, trials=4, **job)
    rows = [
        {"trial": number, "status": "complete", "accuracy": BASELINE["accuracy"] - drop, "recipe": {}}
        | {"accuracy_drop": drop, "latency_ratio": share}
        for number, (drop, share) in enumerate(pairs)
    ]
    results.write_front(folder, [BASELINE, *rows])
    return results.read(folder)


def test_a_run_names_the_models_that_meet_its_constraints(tmp_path: Path) -> None:
    limits = {"accuracy_drop": 2.0, "latency": "0.09x"}
    run = run_with(tmp_path, [*DEMO, (2.5, 0.02)], constraints=limits)
    assert {name: found["trial"] for name, found in run.choices().items()} == {TRADE: 1, CHEAPEST: 2, ACCURATE: 1}
    assert run.recommended()["trial"] == 1
    assert list(run.cheapest_by_drop()["trial"]) == [0, 1, 2, 3], "of the whole front"


def test_without_a_bound_on_the_drop_one_point_may_be_lost(tmp_path: Path) -> None:
    run = run_with(tmp_path / "a", [(0.9, 0.5), (3.0, 0.1)], constraints={"latency": "0.6x"})
    assert run.recommended()["trial"] == 0
    run = run_with(tmp_path / "b", [(2.0, 0.5), (3.0, 0.1)], constraints={"latency": "0.6x"})
    assert run.recommended()["trial"] == 0


def test_if_no_model_fits_none_is_named(tmp_path: Path) -> None:
    run = run_with(tmp_path, DEMO, constraints={"latency": "0.01x"})
    assert run.choices() == {}
    assert run.recommended() is None


def test_of_models_whose_latencies_cannot_be_told_apart_the_more_accurate_is_chosen() -> None:
    def row(ratio: float, low: float, high: float, drop: float) -> dict[str, float]:
        return {"latency_ratio": ratio, "latency_ratio_low": low, "latency_ratio_high": high, "accuracy_drop": drop}

    noisy, steady = row(0.15, 0.13, 0.18, 0.0), row(0.16, 0.15, 0.17, -0.3)
    baseline = {"latency_ratio": 1.0}
    assert named_choices([noisy, steady], baseline, "latency") == {TRADE: 1, CHEAPEST: 1, ACCURATE: 1}
    apart = row(0.15, 0.14, 0.149, 0.0)
    assert named_choices([apart, steady], baseline, "latency") == {TRADE: 0, CHEAPEST: 0, ACCURATE: 1}


def test_a_model_that_is_surely_slower_than_another_is_not_the_fastest() -> None:
    def row(ratio: float, low: float, high: float, drop: float) -> dict[str, float]:
        return {"latency_ratio": ratio, "latency_ratio_low": low, "latency_ratio_high": high, "accuracy_drop": drop}

    rows = [row(0.05, 0.03, 0.2, 0.5), row(0.18, 0.17, 0.19, 0.1), row(0.1, 0.09, 0.11, 0.2)]
    assert named_choices(rows, {"latency_ratio": 1.0}, "latency")[CHEAPEST] == 2

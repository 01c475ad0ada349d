"""Quantities and bounds.

One table for job, results and report, and one definition of when a bound is met.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from example_run import write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress import results
from autocompress.cli.commands.search import search
from autocompress.errors import UserError
from autocompress.job import Bound, Constraints, load_job
from autocompress.objectives.bounds import by_column, excess, explain, met, misses
from autocompress.objectives.figures import directions, known, objective_values, point, ratio
from autocompress.objectives.quantities import BOUNDED, BY_NAME, OBJECTIVES, QUANTITIES, of_column
from autocompress.report.charts.interactive_data import AXES

calm = settings(deadline=None, max_examples=60)
BASELINE = {"accuracy": 90.0, "latency_ms": 10.0, "size_bytes": 4000, "energy_uj": 100.0, "macs": 5000, "params": 1000}
WORSE = {"latency_ms": 8.0, "latency_ratio": 0.8, "size_bytes": 3000, "accuracy_drop": 2.5}
figures = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.just(pd.NA), st.floats(0.1, 1e6))


def test_one_entry_makes_a_quantity_known_everywhere() -> None:
    assert tuple(Constraints.model_fields) == BOUNDED
    assert set(BOUNDED) <= set(inspect.signature(search).parameters), "each has a flag"
    costs = [quantity for quantity in QUANTITIES if quantity.units]
    assert {quantity.column for quantity in QUANTITIES} <= set(results.COLUMNS)
    assert {quantity.judged_column for quantity in costs} <= {axis["key"] for axis in AXES}
    for name in OBJECTIVES:
        assert load_job(settings={"model": "resnet18", "data": "digits", "objectives": [name]}).objectives == (name,)
    with pytest.raises(UserError, match="objectives"):
        load_job(settings={"model": "resnet18", "data": "digits", "objectives": ["params"]})
    assert directions(OBJECTIVES) == ["maximize", *["minimize"] * (len(OBJECTIVES) - 1)]


@pytest.mark.parametrize("column", ["accuracy", "test_accuracy", "agreement"])
def test_accuracy_is_better_when_higher_in_each_of_its_columns(column: str) -> None:
    assert of_column(column).higher_is_better
    assert met(of_column(column), 90.0, 90.0)
    assert not met(of_column(column), 89.9, 90.0)


@calm
@given(st.sampled_from(BOUNDED), st.floats(1e-3, 1e9), st.floats(-0.5, 0.5))
def test_a_bound_is_met_by_values_up_to_the_bound(name: str, limit: float, away: float) -> None:
    """An error in the last digits is no miss. A difference that a table could show is one."""
    quantity = BY_NAME[name]
    assert met(quantity, limit, limit)
    assert met(quantity, limit * (1 + 1e-12), limit)
    if abs(away) > 1e-6:
        assert met(quantity, limit + away * max(limit, 1.0), limit) == (away < 0)
    assert met(quantity, pd.Series([limit, 3 * limit + 1, math.nan]), limit).tolist() == [True, False, False]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", ["size", "macs"])
@pytest.mark.parametrize("beyond", [0.999, 1.0, 1 + 1e-9, 1 + 1e-7, 1.001])
def test_search_and_report_agree_whether_a_bound_is_met(name: str, relative: bool, beyond: float) -> None:
    """They get the same figure as a ratio and as an amount."""
    column = BY_NAME[name].column
    bound = Bound(value=0.25 if relative else 0.25 * BASELINE[column], relative=relative)
    row = {column: beyond * 0.25 * BASELINE[column]}
    limits = by_column({name: bound}, BASELINE)
    is_missed = bool(misses(excess({name: bound}, row, BASELINE)))
    assert is_missed == (not met(BY_NAME[name], row[column], limits[column])) == (beyond > 1 + 1e-8)


@calm
@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*BASELINE, "latency_ratio", "accuracy_drop"], figures)))
def test_a_missing_figure_misses_no_bound(row: dict[str, Any]) -> None:
    bounds = {"accuracy_drop": Bound(value=0.0, relative=False)}
    bounds |= {name: Bound(value=0.5, relative=True) for name in BOUNDED if name != "accuracy_drop"}
    beyond = excess(bounds, row, BASELINE)
    assert all(math.isfinite(value) for value in beyond.values())
    judged = {name: BY_NAME[name].judged_column for name in bounds}
    assert set(beyond) == {name for name, column in judged.items() if known(row, column) is not None}
    assert explain(misses(beyond), bounds, row, BASELINE).count(";") == max(0, len(misses(beyond)) - 1)
    values = objective_values(OBJECTIVES, row, BASELINE)
    assert all(value is None or math.isfinite(value) for value in values)
    assert [math.isinf(value) for value in point(OBJECTIVES, row, BASELINE)] == [value is None for value in values]
    assert objective_values(OBJECTIVES, BASELINE, row)[0] == 90.0


def test_the_worst_miss_comes_first_with_its_bound() -> None:
    job = load_job(
        settings={"model": "resnet18", "data": "digits", "latency": "5 ms", "size": "0.7x", "accuracy_drop": 1.0}
    )
    bounds = job.constraints.all_bounds()
    beyond = excess(bounds, WORSE, BASELINE)
    assert beyond == pytest.approx({"accuracy_drop": 0.15, "latency": 0.6, "size": 0.75 / 0.7 - 1})
    assert misses(beyond) == ["latency", "accuracy_drop", "size"]
    assert explain(misses(beyond), bounds, WORSE, BASELINE) == (
        "latency 8 ms, at most 5 ms; accuracy drop 2.50 points, at most 1; size 0.75x, at most 0.7x"
    )


def test_a_measured_ratio_is_used_unchanged() -> None:
    assert ratio("latency", {"latency_ms": 5.0, "latency_ratio": 0.6}, BASELINE) == 0.6
    assert ratio("size", {"size_bytes": 1000}, BASELINE) == 0.25
    assert ratio("size", {"size_bytes": 1000}, {}) is None


def test_a_bound_of_zero_is_refused_in_every_spelling() -> None:
    for bound in ("0 ms", {"value": 0.0, "relative": True}):
        with pytest.raises(UserError, match="must be more than 0"):
            load_job(settings={"model": "resnet18", "data": "digits", "latency": bound})
    assert load_job(settings={"model": "resnet18", "data": "digits", "accuracy_drop": 0}).constraints.all_bounds() == {
        "accuracy_drop": Bound(value=0.0, relative=False)
    }


def test_a_run_lists_the_bounds_that_a_model_misses(tmp_path: Path) -> None:
    found = results.read(write_run(tmp_path, constraints={"accuracy_drop": 1.0, "latency": "0.5x", "energy": "1 mJ"}))
    row = {"accuracy_drop": 1.2, "latency_ratio": 0.5, "energy_uj": math.nan}
    assert found.missed(row) == ["accuracy_drop", "energy_uj"], "an unknown figure meets no bound"

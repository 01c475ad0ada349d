"""Rows with missing figures.

Devices without latency, and trials that ended early. Sorting them must not fail.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_run import BASELINE as EXAMPLE_BASELINE
from example_run import write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import toy_job

from autocompress import results
from autocompress.job import Job
from autocompress.objectives.fronts import Contenders, by_distance, front_hypervolume, front_rows, nearest_miss
from autocompress.report import view, write_report

BASELINE = {"accuracy": 90.0, "latency_ms": 10.0, "size_bytes": 4000, "energy_uj": 100.0, "macs": 5000, "params": 1000}
figure = st.one_of(st.none(), st.floats(0.1, 100.0), st.just(math.nan))
excesses = st.one_of(
    st.just({}), st.dictionaries(st.sampled_from(["latency", "size", "accuracy_drop", "valid"]), st.floats(-1, 3))
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of a search. Any figure may be None, NaN, or left out."""
    made = []
    for trial in range(draw(st.integers(0, 8))):
        row: dict[str, Any] = {"trial": trial, "status": draw(st.sampled_from(results.STATUSES)), "reason": ""}
        columns = ("accuracy", "accuracy_drop", "latency_ratio", *BASELINE)
        for column in columns:
            if draw(st.booleans()):
                row[column] = draw(figure)
        if draw(st.booleans()):
            row["latency"] = {end: draw(figure) for end in ("latency_ratio", "ratio_low", "ratio_high")}
        row["excess"] = draw(excesses)
        made.append(row)
    return made


@settings(deadline=None, max_examples=150)
@given(
    rows=rows(), objectives=st.permutations(["accuracy", "latency", "size", "energy", "macs"]), count=st.integers(2, 5)
)
def test_any_figure_may_be_missing(folder: Path, rows: list[dict[str, Any]], objectives: list[str], count: int) -> None:
    job: Job = toy_job(folder, objectives=objectives[:count])
    front = front_rows(job.objectives, rows, BASELINE)
    known = [row for row in rows if isinstance(row.get("accuracy"), float) and not math.isnan(row["accuracy"])]
    assert all(any(row is one for one in known) for row in front), "a row without accuracy is not on a front"
    accuracies = [row["accuracy"] for row in front]
    assert accuracies == sorted(accuracies, reverse=True)
    assert any(row["status"] != "failed" for row in known) == bool(front)
    closed = Contenders(job.objectives, BASELINE, rows).rows
    assert closed[: len(front)] == front
    volume = front_hypervolume(front)
    assert volume is None or 0.0 <= volume <= 1.0
    ordered = by_distance(rows)
    assert all(row["status"] == "infeasible" and "valid" not in row["excess"] for row in ordered)
    miss = nearest_miss(rows)
    assert miss is None or miss is ordered[0]


def test_of_rows_with_equal_accuracy_one_with_a_known_latency_comes_first(folder: Path) -> None:
    job = toy_job(folder, objectives=["accuracy", "size"])
    unknown = {"trial": 0, "status": "complete", "accuracy": 88.0, "size_bytes": 1000, "latency_ratio": None}
    known = {"trial": 1, "status": "complete", "accuracy": 88.0, "size_bytes": 1000.0, "latency_ratio": 0.5}
    other = {"trial": 2, "status": "complete", "accuracy": 80.0, "size_bytes": 500, "latency_ratio": None}
    assert [row["trial"] for row in front_rows(job.objectives, [unknown, known, other], BASELINE)] == [0, 2]


@pytest.mark.parametrize("missing", ["accuracy", "latency_ratio", "size_bytes", "test_accuracy", "macs"])
def test_a_report_can_be_written_with_missing_figures(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "run", trials=12)
    for read_table, write_table, columns in (
        (results.read_trials, results.write_trials, results.COLUMNS),
        (results.read_front, results.write_front, results.FRONT_COLUMNS),
    ):
        table = json.loads(read_table(run).to_json(orient="records"))
        kept = [{name: row.get(name) if name != missing else None for name in columns} for row in table]
        write_table(run, [{**row, "recipe": row["recipe"] or {}} for row in kept])
    write_report(run)
    found = results.read(run)
    assert view.headline(found)
    assert missing in EXAMPLE_BASELINE or missing == "test_accuracy"

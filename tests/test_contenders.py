"""Contenders (the front, and models that may belong to it within noise) are measured again."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import toy_job

from autocompress.job import Job
from autocompress.objectives.fronts import MOST_CONTENDERS, Contenders, front_rows
from autocompress.searching.modelfiles import still_there

BASELINE = {"accuracy": 90.0, "latency_ratio": 1.0, "latency_ms": 10.0}


def row(trial: int, accuracy: float, ratio: float, noise: float) -> dict[str, Any]:
    latency = {"latency_ratio": ratio, "ratio_low": ratio - noise, "ratio_high": ratio + noise}
    return {
        "trial": trial,
        "status": "complete",
        "accuracy": accuracy,
        "accuracy_drop": 90.0 - accuracy,
        "latency_ratio": ratio,
        "latency_ms": 10 * ratio,
        "latency": latency,
    }


def contenders(job: Job, rows: list[dict[str, Any]], baseline: dict[str, Any]) -> list[dict[str, Any]]:
    return Contenders(job.objectives, baseline, rows).rows


def test_a_row_within_the_noise_is_a_contender(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    best, close, far = row(0, 89.0, 0.30, 0.02), row(1, 88.0, 0.32, 0.02), row(2, 88.0, 0.50, 0.02)
    rows = [best, close, far]
    assert [r["trial"] for r in front_rows(job.objectives, rows, BASELINE)] == [0]
    assert [r["trial"] for r in contenders(job, rows, BASELINE)] == [0, 1]


def test_without_noise_contenders_are_the_front(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    rows = [row(n, 89.0 - n, 0.5 - 0.1 * (n % 3), 0.0) for n in range(6)]
    assert contenders(job, rows, BASELINE) == front_rows(job.objectives, rows, BASELINE)


def test_a_row_without_a_model_file_excludes_no_new_row(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    lucky = {
        **row(0, 89.0, 0.30, 0.0),
        "artifact": "artifacts/0",
    }  # it was found slower at an earlier closing, and its files were removed
    newcomer = {**row(1, 88.0, 0.32, 0.0), "artifact": "artifacts/1"}
    (tmp_path / "artifacts" / "1").mkdir(parents=True)
    (tmp_path / "artifacts" / "1" / "model.onnx").touch()
    missed = {"trial": 2, "status": "infeasible", "accuracy": None}
    assert [r["trial"] for r in contenders(job, [lucky, newcomer, missed], BASELINE)] == [0]
    there = still_there(tmp_path, [lucky, newcomer, missed])
    assert there == [newcomer, missed]
    assert contenders(job, there, BASELINE) == [newcomer]


def test_their_number_is_bounded(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    rows = [row(n, 89.0 - 0.01 * n, 0.3 + 0.001 * n, 0.2) for n in range(40)]
    assert len(contenders(job, rows, BASELINE)) == MOST_CONTENDERS


def old_contenders(job: Job, rows: list[dict[str, Any]]) -> list[int]:
    """Trials of the contenders by their definition, computed from all rows with files at once."""

    def costs(row: dict[str, Any], end: str = "latency_ratio") -> tuple[float, float]:
        return -row["accuracy"], row["latency"][end]

    def beats(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
        return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]

    rows = sorted(rows, key=lambda row: row["trial"])
    front, seen = [], set()
    for row in rows:
        if costs(row) not in seen and not any(beats(costs(other), costs(row)) for other in rows):
            front.append(row)
            seen.add(costs(row))
    front.sort(key=lambda row: costs(row))
    highs = [costs(row, "ratio_high") for row in front]
    others = [row for row in rows if all(row is not member for member in front)]
    close = [row for row in others if not any(beats(high, costs(row, "ratio_low")) for high in highs)]
    close.sort(key=lambda row: (row["latency_ratio"], -row["accuracy"]))
    different: dict[tuple[float, float], dict[str, Any]] = {}
    for row in close:
        different.setdefault(costs(row), row)
    return [row["trial"] for row in [*front, *different.values()][: max(MOST_CONTENDERS, len(front))]]


@settings(deadline=None, max_examples=80)
@given(
    figures=st.lists(st.tuples(st.integers(60, 90), st.integers(1, 20), st.integers(0, 4)), max_size=40),
    order=st.randoms(use_true_random=False),
    before=st.integers(0, 40),
)
def test_incremental_contenders_are_those_of_all_rows_with_files(
    figures: list[tuple[int, int, int]], order: random.Random, before: int
) -> None:
    """Rows whose files were deleted are left out. All rows of an earlier run are added at once."""
    job = toy_job(Path())
    rows = [row(n, float(accuracy), ratio / 20, noise / 40) for n, (accuracy, ratio, noise) in enumerate(figures)]
    order.shuffle(rows)
    there = sorted(rows[:before], key=lambda one: one["trial"])
    found = Contenders(job.objectives, BASELINE, there)
    there = [one for one in there if one["trial"] in old_contenders(job, there)]
    assert [one["trial"] for one in found.rows] == old_contenders(job, there)
    for new in rows[before:]:
        dropped = found.add(new)
        wanted = old_contenders(job, [*there, new])
        assert [one["trial"] for one in found.rows] == wanted
        assert {one["trial"] for one in dropped} == {one["trial"] for one in [*there, new]} - set(wanted)
        assert found.front == front_rows(job.objectives, sorted(found.rows, key=lambda one: one["trial"]), BASELINE)
        there = [one for one in [*there, new] if one["trial"] in wanted]


def test_a_complete_row_replaces_the_front_of_those_that_miss_a_bound(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    missed, worse = row(0, 89.0, 0.3, 0.0), row(1, 88.0, 0.4, 0.0)
    missed["status"] = worse["status"] = "infeasible"
    found: Contenders[dict[str, Any]] = Contenders(job.objectives, BASELINE, [missed])
    assert found.add(worse) == [worse]
    assert found.front == [missed]
    complete = row(2, 50.0, 0.9, 0.0)
    assert found.add(complete) == [missed]
    assert found.rows == [complete]
    assert found.add(missed) == [missed], "from now on only complete rows count"
    assert found.add({"trial": 3, "status": "failed"}) == [{"trial": 3, "status": "failed"}]


def test_a_new_row_costs_no_more_after_three_thousand(tmp_path: Path) -> None:
    """Counts the rows with which a new row is compared: only contenders are among them."""
    job = toy_job(tmp_path)
    looked: Counter[int] = Counter()

    class Watched(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> Any:
            looked[super().__getitem__("trial")] += 1
            return super().__getitem__(key)

    found: Contenders[Watched] = Contenders(job.objectives, BASELINE)
    for number in range(3000):
        found.add(Watched(row(number, 80.0 - number % 7, 0.5 + 0.01 * (number % 5), 0.001)))
    kept = {one["trial"] for one in found.rows}
    looked.clear()
    found.add(Watched(row(3000, 79.0, 0.9, 0.0)))
    assert set(looked) <= kept | {3000}

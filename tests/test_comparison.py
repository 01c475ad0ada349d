"""Comparing runs: common axes, attainment, dominance and differences of their jobs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cli_here import Commands
from example_run import BASELINE, write_run
from patience import slowness
from test_delivery import HOSTILE

from autocompress.errors import UserError
from autocompress.results import read, write_front, write_trials
from autocompress.results.comparison import LEVELS, compare
from autocompress.results.sofar import models_so_far


def write_points(folder: Path, points: list[tuple[float, float]], **job: Any) -> Path:
    """A run whose front has these points (accuracy drop, latency ratio) on both splits."""
    write_run(folder, trials=1, **job)
    rows = [
        {
            "trial": number,
            "status": "complete",
            "accuracy": BASELINE["accuracy"] - drop,
            "accuracy_drop": drop,
            "test_accuracy_drop": drop,
            "latency_ratio": ratio,
            "recipe": {},
        }
        for number, (drop, ratio) in enumerate(points)
    ]
    write_front(folder, [BASELINE, *rows])
    write_trials(folder, [{key: value for key, value in row.items() if key != "test_accuracy_drop"} for row in rows])
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    one = write_points(tmp_path / "one", [(0.2, 0.8), (0.9, 0.5), (3.0, 0.2)], sampler="random")
    other = write_points(tmp_path / "other", [(0.3, 0.9), (1.0, 0.6), (2.0, 0.1)], budget={"trials": 9})
    return one, other


def test_attainment_is_the_lowest_cost_at_each_loss(two: tuple[Path, Path]) -> None:
    found = compare(*two)
    assert (found.cost, found.split) == ("latency", "test")
    rows = {points: costs for points, costs, _ in found.attainment()}
    assert tuple(rows) == LEVELS
    assert all(math.isnan(cost) for cost in rows[0.0])
    assert rows[0.5] == [0.8, 0.9]
    assert rows[1.0] == [0.5, 0.6]
    assert rows[2.0] == [0.5, 0.1]
    assert rows[5.0] == [0.2, 0.1]


def test_dominance_is_shown_in_both_directions(two: tuple[Path, Path]) -> None:
    (_, second), (first, _) = compare(*two).dominated()
    assert second == pytest.approx(2 / 3), "(0.3, 0.9) and (1.0, 0.6) are dominated"
    assert first == pytest.approx(1 / 3), "(3.0, 0.2) is dominated"


def test_only_the_differences_of_the_jobs_are_listed(two: tuple[Path, Path]) -> None:
    found = compare(*two)
    told = dict(found.differences)
    assert told == {
        "sampler": ["random", "tpe"],
        "budget.trials": [60, 9],
        "budget.minutes": [20, None],
        "budget.epochs": [2, None],
    }
    assert found.warnings == []


def test_incomparable_figures_give_warnings(tmp_path: Path) -> None:
    one = write_points(tmp_path / "one", [(0.2, 0.8)])
    other = write_points(tmp_path / "other", [(0.2, 0.8)], model="resnet50", data="digits", device={"name": "other"})
    texts = " ".join(compare(one, other).warnings)
    for word in ("models", "data", "devices"):
        assert f"the {word} differ" in texts


def test_three_runs_have_a_median(two: tuple[Path, Path], tmp_path: Path, commands: Commands) -> None:
    third = write_points(tmp_path / "third", [(0.1, 0.7)])
    middles = {points: middle for points, _, middle in compare(*two, third).attainment()}
    assert middles[1.0] == 0.6
    assert math.isnan(middles[0.0])
    assert "median" in commands("compare", *two, third)


def test_the_common_cost_is_used(tmp_path: Path) -> None:
    runs = [write_points(tmp_path / name, [(0.2, 0.8)], objectives=["accuracy", "size"]) for name in ("a", "b")]
    assert compare(*runs).cost == "latency", "no row has a size"


def test_the_command_prints_tables_and_json(two: tuple[Path, Path], commands: Commands) -> None:
    out = commands("compare", *two)
    for text in ("hypervolume", "1 points" if "1 points" in out else "1 point", "budget.trials", "0.50×", "67%"):
        assert text in out
    told = json.loads(commands("compare", *two, "--json"))
    assert told["attainment"][0]["costs"] == [None, None]
    assert told["differences"]["sampler"] == ["random", "tpe"]


def test_no_figure_is_truncated_on_a_narrow_terminal(two: tuple[Path, Path], commands: Commands) -> None:
    commands.columns = 40
    out = commands("compare", *two)
    assert "…" not in out
    for figure in ("0.50×", "0.60×", "0.90×"):
        assert figure in out


def test_runs_in_every_state_are_compared(two: tuple[Path, Path], tmp_path: Path, commands: Commands) -> None:
    running = write_run(tmp_path / "running", trials=30, name=HOSTILE)
    (running / "front.csv").unlink()
    (running / "summary.json").unlink()
    (run,) = [one for one in compare(two[0], running).runs if one.result.folder == running]
    assert not run.is_over
    assert len(run.drops) > 2
    assert "not over" in commands("compare", two[0], running)
    assert not [key for key, _ in compare(two[0], running).differences if key.startswith("environment")]
    (two[1] / "summary.json").write_text('{"ended": "interrupted"}')
    assert "interrupted" in commands("compare", *two)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "job.yaml").write_text((two[0] / "job.yaml").read_text())
    assert "not over" in commands("compare", empty, two[0])
    assert "no cost in common" not in commands("compare", empty, empty)
    write_trials(empty, [{"trial": 0, "status": "failed", "reason": "no"}])
    write_front(empty, [BASELINE])
    out = commands("compare", empty, two[0])
    assert "failed" in out
    assert "one run alone" in commands("compare", two[0], code=2)
    assert "is not a run" in commands("compare", two[0], tmp_path, code=2)


def test_the_front_so_far_is_computed_from_the_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", trials=40)
    expected = list(read(folder).models["trial"])
    (folder / "front.csv").unlink()
    found = models_so_far(read(folder))
    assert sorted(found["trial"]) == sorted(expected)
    assert found["accuracy"].is_monotonic_decreasing
    assert found["test_accuracy"].isna().all()
    assert isinstance(found, pd.DataFrame)


def test_one_run_alone_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give two runs or more"):
        compare(write_points(tmp_path / "one", [(0.2, 0.8)]))


@pytest.mark.timing
def test_two_runs_of_a_thousand_trials_take_two_seconds(tmp_path: Path, commands: Commands) -> None:
    runs = [write_run(tmp_path / name, trials=1000, seed=seed) for seed, name in enumerate(("a", "b"))]
    began = time.process_time()
    commands("compare", *runs)
    assert time.process_time() - began < 2.0 * slowness()

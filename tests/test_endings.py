"""Early ends of a search (a stall, met constraints), and models that are kept or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_search import OpenedToy, offer_toy_device, open_toy, toy_job

from autocompress import results
from autocompress.contract import manager
from autocompress.errors import UserError
from autocompress.job import load_job, validate
from autocompress.objectives.fronts import fastest_within
from autocompress.objectives.gains import Gains
from autocompress.report import view
from autocompress.searching import run
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.endings import Endings
from autocompress.searching.measurer import Measurer
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.reach import OutOfReach, hopeless, out_of_reach, still_out
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0, "size_bytes": 1000, "macs": 100, "energy_uj": 8.0}
WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}


@pytest.fixture(autouse=True)
def _toy_device() -> None:
    offer_toy_device()


def row(trial: int, drop: float | None, ratio: float | None, status: str = "complete", **more: Any) -> dict[str, Any]:
    accuracy = None if drop is None else 90.0 - drop
    return {
        "trial": trial,
        "status": status,
        "accuracy": accuracy,
        "accuracy_drop": drop,
        "latency_ratio": ratio,
        "excess": {},
        "artifact": f"artifacts/{trial}",
        **more,
    }


def test_a_row_that_increases_the_hypervolume_is_a_gain() -> None:
    gains = Gains(("accuracy", "latency"), BASELINE)
    assert not gains.add(row(0, 0.0, 1.0)), "the uncompressed model"
    assert gains.add(row(1, 1.0, 0.5))
    assert not gains.add(row(2, 1.0, 0.5)), "an equal row is no gain"
    assert not gains.add(row(3, 0.9999, 0.5)), "a difference below the noise is no gain"
    assert not gains.add(row(4, 2.0, 0.6)), "dominated"
    assert not gains.add(row(5, 12.0, 0.1)), "beyond ten points"
    assert not gains.add(row(6, None, None, "failed"))
    assert gains.add(row(7, 2.0, 0.25))


@pytest.mark.parametrize("objectives", [("accuracy", "size"), ("accuracy", "latency", "energy"), ("accuracy", "macs")])
def test_other_objectives_have_gains_too(objectives: tuple[str, ...]) -> None:
    gains = Gains(objectives, BASELINE)
    costs = {"size_bytes": 500, "macs": 50, "energy_uj": 4.0}
    assert gains.add(row(0, 1.0, 0.5, **costs))
    assert not gains.add(row(1, 1.0, 0.5, **costs))
    assert gains.add(row(2, 1.0, 0.4, **{name: value / 2 for name, value in costs.items()}))


def test_while_nothing_meets_the_constraints_a_smaller_miss_is_a_gain() -> None:
    gains = Gains(("accuracy", "latency"), BASELINE)
    assert gains.add(row(0, None, 0.8, "infeasible", excess={"latency": 0.6}))
    assert not gains.add(row(1, None, 0.9, "infeasible", excess={"latency": 0.8}))
    assert gains.add(row(2, None, 0.6, "infeasible", excess={"latency": 0.2}))
    assert not gains.add(row(3, None, None, "infeasible", excess={"valid": 1.0}))
    assert gains.add(row(4, 1.0, 0.5))
    assert not gains.add(row(5, None, 0.51, "infeasible", excess={"latency": 0.02}))


def test_a_stall_is_a_number_of_rows_without_a_gain(tmp_path: Path) -> None:
    endings = Endings(toy_job(tmp_path, stall=2), BASELINE, [row(0, 1.0, 0.5), row(1, 1.0, 0.5)])
    assert not endings.why
    endings.add(row(2, 2.0, 0.25))
    endings.add(row(3, 2.0, 0.25))
    assert not endings.why
    endings.add(row(4, None, None, "failed"))
    assert endings.why == "the last 2 trials gained no hypervolume"
    assert not endings.is_met


def test_constraints_are_met_by_complete_rows_only(tmp_path: Path) -> None:
    job = toy_job(tmp_path, until_met=True, constraints={"latency": "0.5x"})
    endings = Endings(job, BASELINE, [row(0, None, 0.9, "infeasible", excess={"latency": 0.8})])
    assert not endings.why
    endings.add(row(7, 1.0, 0.4))
    assert (endings.why, endings.is_met) == ("trial 7 meets all constraints", True)
    assert not Endings(toy_job(tmp_path), BASELINE, [row(7, 1.0, 0.4)]).why, "the job does not ask for it"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stall": 0}, "stall.*at least 1"),
        ({"stall": 2.5}, "stall.*whole number"),
        ({"until_met": "yes"}, "until_met.*true or false"),
        ({"until_met": True}, "until_met.*needs a constraint"),
        ({"until_met": True, "accuracy_drop": 1.0}, "until_met.*needs a constraint"),
        ({"search": {"tabels": False}}, "tabels.*no key of search"),
        ({"search": {"tables": "off"}}, "search.tables.*true or false"),
    ],
)
def test_bad_values_give_one_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        load_job(settings={"model": "resnet10t", "data": "digits", **settings})
    assert "\n" not in str(error.value)


def test_an_earlier_run_that_is_no_run_is_refused_early(tmp_path: Path) -> None:
    job = toy_job(tmp_path, recipes_from=tmp_path / "old")
    with pytest.raises(UserError, match=r"recipes_from.*names no run.*old has no job\.yaml"):
        validate(job, manager())


def test_the_files_of_the_fastest_model_within_the_bar_are_kept(tmp_path: Path) -> None:
    job = toy_job(tmp_path, constraints={"size": "0.5x", "accuracy_drop": 2.0})
    rows = [
        row(0, 1.0, 0.5),
        row(1, 2.0, 0.3, "infeasible", excess={"size": 0.4}),
        row(2, 3.0, 0.1, "infeasible", excess={"size": 0.4, "accuracy_drop": 0.1}),
        row(3, 1.5, 0.35, "infeasible", excess={"size": 0.4}),
    ]
    assert fastest_within(rows, 2.0) is rows[1]
    assert fastest_within([row(0, 0.0, 1.0)], 2.0) is None, "not faster than the baseline"
    for one in rows:
        home = job.folder / one["artifact"]
        home.mkdir(parents=True)
        (home / "model.onnx").touch()
    kept = KeptModels(job.folder, job, BASELINE, rows[:1])
    for one in (rows[3], rows[1], rows[2]):
        kept.add(one)
    there = {path.parent.name for path in job.folder.glob("artifacts/*/model.onnx")}
    assert there == {"0", "1"}
    assert [one["trial"] for one in kept.front] == [0]
    assert {one["trial"] for one in KeptModels(job.folder, job, BASELINE, rows).rows} == {0, 1}


def searched(folder: Path, **settings: Any) -> results.SearchResult:
    return run.search(toy_job(folder, **settings), opener=open_toy)


@pytest.mark.usefixtures("search_here")
def test_a_search_stalls_and_a_resume_says_so(tmp_path: Path) -> None:
    space = {"toy": {"width": 1.0, "bits": [32, 8]}}  # only the learning rate is left to draw
    found = searched(tmp_path, budget={"trials": 40, "stall": 3}, space=space)
    assert found.summary["ended"].startswith("the last ")
    assert 4 <= len(found.trials) < 40
    again = run.resume(found.folder, opener=open_toy)
    assert len(again.trials) == len(found.trials)
    assert again.summary["ended"] == found.summary["ended"]


@pytest.mark.usefixtures("search_here")
def test_a_search_ends_when_the_constraints_are_met_and_another_one_starts_from_it(tmp_path: Path) -> None:
    limits = {"latency": "0.2x", "accuracy_drop": 9.0}
    budget = {"trials": 40, "until_met": True}
    found = searched(tmp_path, budget=budget, constraints=limits, name="old")
    (met,) = found.trials[found.trials["status"] == "complete"]["trial"]
    assert found.summary["ended"] == f"trial {met} meets all constraints"
    assert found.summary["fastest_within_bar"]["trial"] == met
    assert len(found.trials) < 40

    narrow = {"toy": {"width": [0.5, 0.25], "bits": [8, 4, 2]}}
    new = searched(tmp_path, budget=budget, constraints=limits, name="new", space=narrow, recipes_from=found.folder)
    assert new.trials.iloc[0]["recipe"] == found.trials.set_index("trial").loc[met, "recipe"]
    assert new.summary["ended"] == "trial 0 meets all constraints"
    log = (new.folder / "log.txt").read_text()
    assert "1 recipes of" in log


def test_recipes_that_no_longer_fit_are_named_and_skipped(tmp_path: Path) -> None:
    from autocompress.searching.earlier import recipes_from

    old = toy_job(tmp_path, name="old")
    old.folder.mkdir()
    (old.folder / "job.yaml").write_text(old.to_yaml())
    figures = {"latency_ratio": 0.5, "status": "complete", "seconds": 1.0, "rung": 0}
    recipes = [WHOLE, {**WHOLE, "toy.width": 0.5}, {**WHOLE, "gone.ratio": 2}, {**WHOLE, "toy.bits": 8}]
    results.write_trials(old.folder, [{"trial": n, **figures, "recipe": recipe} for n, recipe in enumerate(recipes)])
    opened: OpenedToy = open_toy(toy_job(tmp_path, space={"toy": {"width": [1.0, 0.25]}}))
    found = recipes_from(old.folder, opened.compose, trials=40)
    assert found.points == [("trial 0 of old", WHOLE), ("trial 3 of old", {**WHOLE, "toy.bits": 8})]
    assert found.notes[0] == f"2 recipes of {old.folder} are tried first"
    assert "trial 1: toy.width cannot be 0.5" in found.notes[1]
    assert "trial 2: 'gone.ratio' is no parameter of its recipe here" in found.notes[1]
    assert len(recipes_from(old.folder, opened.compose, trials=2).points) == 1, "at most half of the trials"


def test_interrupted_recipes_come_first(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    opened: OpenedToy = open_toy(job)
    study = Study(job.folder, job, BASELINE)
    study.enqueue_starting_points([("first", WHOLE), ("second", {**WHOLE, "toy.bits": 8})])
    lost = study.ask(opened.compose)
    assert lost is not None
    study.enqueue_proposals([("proposal", {**WHOLE, "toy.bits": 4})])
    again = Study(job.folder, job, BASELINE)
    assert again.recover() == 1
    asked = [again.ask(opened.compose) for _ in range(3)]
    assert [one.label for one in asked if one is not None] == ["first", "second", "proposal"]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            {"latency": "0.01x"},
            ["the cheapest recipes miss latency 0.01x: their lowest value is about 0.0338x"],
        ),
        ({"latency": "0.2x"}, []),
        (
            {"macs": "2 k", "params": "10"},
            ["the cheapest recipes miss params 10: their lowest value is about 125"],
        ),
        ({"accuracy_drop": 1.0}, []),
    ],
)
def test_constraints_out_of_reach_are_named_with_the_nearest_value(
    tmp_path: Path, limits: dict[str, Any], told: list[str]
) -> None:
    job = toy_job(tmp_path, constraints=limits)
    opened: OpenedToy = open_toy(job)
    measurer = Measurer.of(job, opened.device)
    found = out_of_reach(opened, measurer, baseline_row(opened, measurer))
    assert [str(one).partition(" (")[0] for one in found] == told


def test_a_constraint_that_a_trial_meets_is_not_out_of_reach(tmp_path: Path) -> None:
    job = toy_job(tmp_path, constraints={"latency": "0.25x"})
    missed = [OutOfReach("latency", "0.25x", "0.333x", "prune")]
    baseline = {"latency_ratio": 1.0}
    assert still_out(missed, job, [{"latency_ratio": 0.3}, {"latency_ratio": None}], baseline) == missed
    assert still_out(missed, job, [{"latency_ratio": 0.24}], baseline) == []


def test_a_method_that_cannot_meet_a_bound_alone_is_not_tried_alone(tmp_path: Path) -> None:
    labels = ["uncompressed", "narrow alone", "narrow and 8-bit"]
    for limits, expected in (({"latency": "0.1x"}, {"narrow alone": "latency"}), ({"latency": "0.2x"}, {}), ({}, {})):
        job = toy_job(tmp_path, constraints=limits)
        opened: OpenedToy = open_toy(job)
        measurer = Measurer.of(job, opened.device)
        assert hopeless(opened, measurer, baseline_row(opened, measurer), labels) == expected


@pytest.mark.usefixtures("search_here")
def test_a_search_names_constraints_out_of_reach(tmp_path: Path) -> None:
    found = searched(tmp_path, budget={"trials": 3}, constraints={"latency": "0.01x"})
    (one,) = found.summary["out_of_reach"]
    assert (one["quantity"], one["bound"], one["candidate"]) == ("latency", "0.01x", "all together")
    assert any("The cheapest recipes miss latency 0.01x" in text for text in view.warnings(found))
    log = (found.folder / "log.txt").read_text()
    assert log.index("the cheapest recipes miss latency 0.01x") < log.index("no more trials")
    assert json.loads((found.folder / "summary.json").read_text())["fastest_within_bar"] is None

"""The study stores all results, tries no recipe twice, and repeats interrupted trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from toy_search import OpenedToy, open_toy, toy_job

from autocompress.job import Job
from autocompress.searching.asked import Asked
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0, "size_bytes": 4000, "params": 1000, "macs": 5000, "energy_uj": 160000.0}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return toy_job(tmp_path, sampler="random", space={"toy": {"lr": 0.1}}, constraints={"latency": "0.4x"})


@pytest.fixture
def opened(job: Job) -> OpenedToy:
    return open_toy(job)


@pytest.fixture
def study(job: Job) -> Study:
    job.folder.mkdir(exist_ok=True)
    return Study(job.folder, job, BASELINE)


def again(job: Job) -> Study:
    """The same study, as another process reads it."""
    return Study(job.folder, job, BASELINE)


def row(asked: Asked, **columns: Any) -> dict[str, Any]:
    done = {"trial": asked.number, "status": "complete", "reason": "", "recipe": asked.values, "label": asked.label}
    return done | {"accuracy": 88.0, "accuracy_drop": 2.0, "latency_ratio": 0.5, "excess": {}, "seconds": 1.0} | columns


def ask(study: Study, opened: OpenedToy) -> Asked:
    """The next valid recipe."""
    while True:
        asked = study.ask(opened.compose)
        assert asked is not None
        if study.row(asked.number) is None:
            return asked


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study._study.get_trials()]


def test_starting_points_come_first_with_their_labels(study: Study, opened: OpenedToy) -> None:
    for label, values in opened.starting_points():
        study.enqueue(values, label)
    first, second = ask(study, opened), ask(study, opened)
    assert [first.label, second.label] == ["uncompressed", "8-bit alone"]
    assert second.values["toy.bits"] == 8
    assert second.values["toy.width"] == 1.0


def test_another_process_finds_rows_and_constraints(job: Job, study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, excess={"latency": 0.25}))
    study.spend(12.5)
    found = again(job)
    assert found.rows() == [row(asked, excess={"latency": 0.25})]
    assert found.seconds == 12.5
    trial = found._study.get_trials()[asked.number]
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [88.0, 0.5]
    assert trial.constraints == {"latency": 0.25, "valid": -1.0}


def test_a_told_row_does_not_change(study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, accuracy=80.0))
    study.tell(asked.number, row(asked, accuracy=10.0))
    assert [told["accuracy"] for told in study.rows()] == [80.0]


def test_no_recipe_is_asked_twice_and_a_small_space_ends(study: Study, opened: OpenedToy) -> None:
    seen = []
    while (asked := study.ask(opened.compose)) is not None:
        seen.append(tuple(sorted(asked.values.items())))
        if study.row(asked.number) is None:
            study.tell(asked.number, row(asked))
    assert len(seen) == len(set(seen)) == 16, "4 widths times 4 bits, one of which cannot be built"
    assert len(study.rows()) == 16, "repeats are told, but have no row"
    assert set(states(study)) <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_finished_recipe_is_told_again_from_its_row(job: Job, study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, accuracy=77.0))
    found = again(job)
    found.enqueue(asked.values)
    following = ask(found, opened)
    repeated = found._study.get_trials()[asked.number + 1]
    assert repeated.values == [77.0, 0.5]
    assert following.number > repeated.number
    assert following.values != asked.values


def test_a_repeat_of_a_running_trial_waits_for_its_row(study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study.enqueue(asked.values)
    ask(study, opened)
    twin = asked.number + 1
    assert states(study)[twin] == TrialState.RUNNING
    study.tell(asked.number, row(asked, accuracy=66.0))
    study.tell_followers(asked.number)
    assert study._study.get_trials()[twin].values == [66.0, 0.5]
    assert len(study.rows()) == 1


def test_an_invalid_recipe_has_its_row_at_once(study: Study, opened: OpenedToy) -> None:
    study.enqueue({"toy.width": 0.125, "toy.bits": 2})
    asked = study.ask(opened.compose)
    assert asked is not None
    told = study.row(asked.number)
    assert told is not None
    assert told["status"] == "infeasible"
    assert "cannot go with 2 bits" in told["reason"]
    assert states(study)[asked.number] == TrialState.PRUNED


def test_running_trials_are_tried_again(job: Job, study: Study, opened: OpenedToy) -> None:
    done, cut = ask(study, opened), ask(study, opened)
    study.tell(done.number, row(done))
    found = again(job)
    assert found.recover() == 1
    assert states(found)[cut.number] == TrialState.FAIL
    assert ask(found, opened).values == cut.values
    assert found.recover() == 1, "it was interrupted again"
    assert len(found.rows()) == 1


def test_a_row_that_was_written_but_not_told_is_not_lost(job: Job, study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study._trial(asked.number).set_user_attr("row", row(asked))  # here, the worker was killed
    found = again(job)
    assert found.recover() == 0
    assert states(found)[asked.number] == TrialState.COMPLETE
    assert len(found.rows()) == 1


@pytest.mark.parametrize(("sampler", "state"), [("tpe", TrialState.PRUNED), ("random", TrialState.PRUNED)])
def test_a_gate_miss_is_pruned_for_samplers_that_learn_from_it(
    tmp_path: Path, sampler: str, state: TrialState, opened: OpenedToy
) -> None:
    job = toy_job(tmp_path, sampler=sampler, name=sampler, constraints={"accuracy_drop": 1.0, "latency": "0.5x"})
    job.folder.mkdir()
    study = Study(job.folder, job, BASELINE)
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, status="infeasible", accuracy=None, excess={"latency": 0.5}))
    trial = study._study.get_trials()[asked.number]
    assert trial.state == state
    assert trial.constraints == {"accuracy_drop": 0.0, "latency": 0.5, "valid": -1.0}


@pytest.mark.parametrize("sampler", ["nsga2", "gp"])
def test_a_gate_miss_is_complete_with_the_worst_accuracy_for_others(
    tmp_path: Path, sampler: str, opened: OpenedToy
) -> None:
    job = toy_job(tmp_path, sampler=sampler, name=sampler, constraints={"accuracy_drop": 1.0, "latency": "0.5x"})
    job.folder.mkdir()
    study = Study(job.folder, job, BASELINE)
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, status="infeasible", accuracy=None, excess={"latency": 0.5}))
    trial = study._study.get_trials()[asked.number]
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [0.0, 0.5]
    assert trial.constraints == {"accuracy_drop": 0.0, "latency": 0.5, "valid": -1.0}


def test_an_error_is_a_failure(study: Study, opened: OpenedToy) -> None:
    asked = ask(study, opened)
    study.tell(asked.number, row(asked, status="failed", accuracy=None, reason="it broke"))
    assert states(study)[asked.number] == TrialState.FAIL
    assert study.rows()[0]["reason"] == "it broke"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_every_sampler_searches_a_conditional_space(tmp_path: Path, sampler: str) -> None:
    job = toy_job(tmp_path, sampler=sampler, name=sampler, budget={"trials": 20})
    job.folder.mkdir()
    opened, study = open_toy(job), Study(job.folder, job, BASELINE)
    for _ in range(12):  # GP begins to model after ten trials
        asked = ask(study, opened)
        study.tell(asked.number, row(asked, accuracy=80.0 + 10 * float(asked.values["toy.width"])))
    assert len(study.rows()) >= 12


def test_conditional_choices_get_names_of_their_own(study: Study) -> None:
    from autocompress.contract import Space

    class Recipe:
        def __init__(self, values: dict[str, Any]) -> None:
            self.values, self.key = values, str(values)

    def compose(chooser: Any) -> Recipe:
        space = Space(chooser)
        kind = space.categorical("kind", ["a", "b"], default="a")
        space.categorical("size", [1, 2, 3] if kind == "a" else [3, 4, 5], default=3)
        return Recipe(dict(space.chosen))

    found = []
    while (asked := study.ask(compose)) is not None:
        found.append((asked.values["kind"], asked.values["size"]))
    assert sorted(found) == [("a", 1), ("a", 2), ("a", 3), ("b", 3), ("b", 4), ("b", 5)]


def test_random_draws_are_repeated_with_their_seed(tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        job = toy_job(tmp_path, name=name, seed=seed, sampler="random")
        job.folder.mkdir()
        opened, study = open_toy(job), Study(job.folder, job, BASELINE)
        drawn.append([ask(study, opened).values for _ in range(5)])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_interrupted_trials_precede_waiting_starting_points(job: Job, study: Study, opened: OpenedToy) -> None:
    points = [(f"point {bits}", {"toy.width": 0.5, "toy.bits": bits, "toy.lr": 0.1}) for bits in (32, 8, 4, 2)]
    study.enqueue_starting_points(points)
    first, second = ask(study, opened), ask(study, opened)
    assert (first.label, second.label) == ("point 32", "point 8")
    resumed = again(job)
    assert not resumed.is_new
    assert resumed.recover() == 2
    assert [ask(resumed, opened).label for _ in range(4)] == ["point 32", "point 8", "point 4", "point 2"]
    assert again(job).recover() == 4


def test_starting_points_of_a_search_killed_while_it_wrote_them_are_written_again(
    job: Job, study: Study, opened: OpenedToy
) -> None:
    assert study.is_new
    study.enqueue({"toy.width": 0.5, "toy.bits": 8, "toy.lr": 0.1}, "killed behind this one")
    resumed = again(job)
    assert resumed.is_new
    resumed.enqueue_starting_points(opened.starting_points())
    assert not again(job).is_new
    assert [ask(resumed, opened).label for _ in range(2)] == [label for label, _ in opened.starting_points()]

"""Recipes with training of their own, in searches where rungs decide about training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest

from autocompress.contract import Transform
from autocompress.job import load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Fixed, Policy
from autocompress.searching.promotion.untrained import EPOCHS, epochs_are_drawn, rungs_act, untrained
from autocompress.searching.sampling.chooser import OptunaChooser


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def test_the_sampler_leaves_training_to_the_rungs(opened: OpenedJob, study: optuna.Study) -> None:
    others = [method for method in opened.methods if not isinstance(method, Transform)]
    space, limited = replace(opened.space, methods=others), 0  # some transforms need training
    for undrawn, is_ever_trained in (((EPOCHS,), False), ((), True)):
        found = []
        for _ in range(12):
            trial = study.ask()
            recipe = space.compose(OptunaChooser(trial, undrawn=undrawn))
            found += [] if recipe.prune is None else [recipe.recover["epochs"]]
            limited += EPOCHS in trial.params
        assert found
        assert any(found) == is_ever_trained
    assert limited, "without rungs the epochs are a parameter of the sampler"


def test_epochs_that_were_enqueued_are_kept(opened: OpenedJob, study: optuna.Study) -> None:
    pruned = opened.compose(Fixed({EPOCHS: 1}, Policy({"prune": "default", "recover": "default"})))
    assert pruned.recover["epochs"] == 1
    study.enqueue_trial(dict(pruned.values))
    again = opened.compose(OptunaChooser(study.ask(), undrawn=(EPOCHS,)))
    assert again.recover["epochs"] == 1


def test_a_starting_point_is_tried_without_its_training(opened: OpenedJob) -> None:
    pruned = opened.compose(Policy({"prune": "default", "recover": "default"}))
    assert pruned.recover["epochs"]
    found = untrained(pruned.values, opened.compose)
    assert found[EPOCHS] == 0
    assert "recover.lr" not in found
    assert {name: found[name] for name in found if name.startswith("prune")} == {
        name: value for name, value in pruned.values.items() if name.startswith("prune")
    }
    assert untrained(found, opened.compose) == found


def test_epochs_that_a_job_names_are_drawn() -> None:
    def job(**settings: Any) -> Any:
        return load_job(settings={"model": "resnet10t", "data": "digits", **settings})

    assert not epochs_are_drawn(job())
    assert epochs_are_drawn(job(search={"rungs": False}))
    assert epochs_are_drawn(job(space={"recover": {"epochs": {"high": 1}}}))
    assert rungs_act(job())
    assert not rungs_act(job(budget={"epochs": 0}))

"""Epochs may be fractions: with a million images, a trial must not need a whole epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from autocompress import data, models
from autocompress.contract import manager
from autocompress.errors import UserError
from autocompress.job import DataConfig, limits_of, load_job
from autocompress.opened.outline import space_of
from autocompress.recipes.choosers import Policy, Replay
from autocompress.training import TrainSettings, baseline_settings
from autocompress.training.loop import Training

JOB = {"model": "test_resnet", "data": "digits", "methods": ["magnitude", "quantize"]}


def test_the_dump_of_a_job_has_its_epochs(tmp_path: Path) -> None:
    given = {**JOB, "budget": {"epochs": 0.25}, "baseline": {"epochs": 1.5}}
    (tmp_path / "job.yaml").write_text(load_job(settings=given).to_yaml())
    job = load_job(tmp_path / "job.yaml")
    assert (job.budget.epochs, job.baseline.epochs) == (0.25, 1.5)
    whole = load_job(settings={**JOB, "epochs": 3.0}, flags=True)
    assert repr(whole.budget.epochs) == "3"
    assert "epochs: 3\n" in whole.to_yaml()


@pytest.mark.parametrize("epochs", [-0.5, "many", None])
def test_invalid_numbers_of_epochs_are_refused(epochs: object) -> None:
    with pytest.raises(UserError, match=r"budget\.epochs.*must be"):
        load_job(settings={**JOB, "budget": {"epochs": epochs}})


@pytest.mark.parametrize(("budget", "limit", "found"), [(0.5, None, 0.5), (0.5, 0.25, 0.25), (2, 1, 1)])
def test_recipes_have_quarters_of_a_budget_that_is_a_fraction(budget: float, limit: float | None, found: float) -> None:
    own = {} if limit is None else {"space": {"recover": {"epochs": limit}}}
    job = load_job(settings={**JOB, "budget": {"epochs": budget}, **own})
    splits = data.load(job.data)
    methods = [method for method in manager().methods() if method.name in JOB["methods"]]
    model = models.create(job, splits.info).eval()
    space = space_of(job, model, methods, limits_of(job), splits, manager().device("onnxruntime-cpu"))
    recipe = space.compose(Policy({"prune": "cheapest"}, "default"))
    assert recipe.recover["epochs"] == found
    assert space.compose(Replay(recipe.values)).values == recipe.values
    if limit is None:
        assert space.parameters()["recover.epochs"].step == budget / 4


def test_a_training_can_end_within_an_epoch() -> None:
    split = data.load(DataConfig.model_validate("digits")).train.take(torch.arange(320))
    steps = {}
    for epochs in (0.0, 0.01, 0.5, 1.25):
        model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
        steps[epochs] = Training(model, split, TrainSettings(epochs=epochs, batch_size=32)).run().steps
    assert steps == {0.0: 0, 0.01: 1, 0.5: 5, 1.25: 12}


def test_a_baseline_may_have_a_fraction_of_an_epoch() -> None:
    job = load_job(settings={**JOB, "baseline": {"epochs": 0.5}})
    assert baseline_settings(job, 10_000).epochs == 0.5

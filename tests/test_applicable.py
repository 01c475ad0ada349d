"""Methods that apply to a job.

For all others there is a reason, whatever a plugin does, before any time is spent.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import nn

from autocompress.contract import Context, DataSource, Params, Plan, Space, Stage, Transform, manager
from autocompress.errors import InvalidRecipe, UserError
from autocompress.job import Job, Limits, load_job
from autocompress.opened import job as openedjob
from autocompress.opened.applicable import applicable
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.store import Store


class Quiet(Transform):
    """Applies, and changes nothing."""

    name, version, reference, stage = "quiet", "1", "none", Stage.PRUNE

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"rate": space.float("rate", 0.1, 0.7, default=0.3)}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return model


class RaisesInItsSpace(Quiet):
    name = "spaceless"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        raise KeyError("rate")


class RaisesInItsCheck(Quiet):
    name = "unchecked"

    def check(self, model: nn.Module, job: Job) -> list[str]:
        raise RuntimeError("broken")


class CannotPrepare(Quiet):
    name = "unprepared"

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        raise ValueError("no scores")


class Dreams(DataSource):
    name, version, reference = "dreams", "1", "none"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {}

    def apply(self, teacher: nn.Module, params: Params, context: Context, student: Any = None) -> Any:
        raise AssertionError("not asked")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=10)


def job(**settings: Any) -> Job:
    return load_job(settings={"model": "test_resnet", "data": "digits", **settings})


def test_a_method_whose_code_raises_is_refused_with_its_reason(model: nn.Module) -> None:
    fit, refused = applicable([Quiet(), RaisesInItsSpace(), RaisesInItsCheck()], model, job())
    assert [method.name for method in fit] == ["quiet"]
    assert refused["spaceless"] == ["its search space raised KeyError: 'rate'"]
    assert refused["unchecked"] == ["its check raised RuntimeError: broken"]


class Returns(Quiet):
    """Its space returns a given value: always, or only for a choice other than the default."""

    name = "returns"

    def __init__(self, params: object, *, at_once: bool) -> None:
        self._params, self._at_once = params, at_once

    def search_space(self, space: Space, model: nn.Module) -> Params:
        mode = space.categorical("mode", ["plain", "other"], default="plain", cheapest="other")
        given: Any = self._params
        return given if self._at_once or mode == "other" else {"mode": mode}


UNFIT = [
    (None, "the search_space of 'returns' returns nothing where a mapping is needed"),
    ([1], "the search_space of 'returns' returns a list where a mapping is needed"),
    ({"a": object()}, "the search_space of 'returns' returns values that are not JSON: .* at 'a'"),
    ({"a": [float("nan")]}, "the search_space of 'returns' returns values that are not JSON: .*nan at 'a"),
    ({1: 2}, "the search_space of 'returns' returns values that are not JSON: .*key 1"),
]


@pytest.mark.parametrize(("params", "told"), UNFIT)
def test_a_space_with_values_that_are_no_json_is_refused(model: nn.Module, params: object, told: str) -> None:
    with pytest.raises(UserError, match=f"'returns' cannot apply to test_resnet: {told}"):
        applicable([Returns(params, at_once=True)], model, job(), ["returns"])
    space = JobSpace(model, [Returns(params, at_once=False)], Limits(), "stage", 1)
    assert space.compose(Replay({})).transforms == [("returns", {"mode": "plain"})]
    with pytest.raises(InvalidRecipe, match=told):
        space.compose(Replay({"returns.mode": "other"}))


def test_a_requested_method_that_cannot_apply_is_an_error(model: nn.Module) -> None:
    with pytest.raises(UserError, match="'spaceless' cannot apply to test_resnet: its search space raised"):
        applicable([RaisesInItsSpace()], model, job(), ["spaceless"])
    with pytest.raises(UserError, match=r"unknown method 'quite'.*did you mean 'quiet'"):
        applicable([Quiet()], model, job(), ["quite"])


def test_data_sources_only_apply_without_training_data(model: nn.Module) -> None:
    fit, refused = applicable([Dreams()], model, job())
    assert not fit
    assert refused["dreams"] == ["the job has training data; give data: {train: none, ...} to compress without it"]
    with pytest.raises(UserError, match="'dreams' cannot apply to test_resnet: the job has training data"):
        applicable([Dreams()], model, job(), ["dreams"])


def test_without_images_nothing_is_calibrated(model: nn.Module) -> None:
    _, refused = applicable([manager().method("quantize")], model, job(), has_images=False)
    assert "images for calibration" in refused["quantize"][0]


def test_a_method_that_cannot_prepare_is_refused(opened: OpenedJob, tmp_path: Path) -> None:
    pipeline = replace(opened.pipeline, store=Store(tmp_path), methods=[*opened.methods, CannotPrepare()])
    assert pipeline.prepare() == {"unprepared": "it could not prepare: ValueError: no scores"}
    assert [method.name for method in pipeline.methods] == [method.name for method in opened.methods]


def test_methods_that_exclude_each_other_by_default_stay_in_the_space(model: nn.Module) -> None:
    class Second(Quiet):
        name = "second"

    space = JobSpace(model, [Quiet(), Second()], Limits(values={"second.rate": 0.2}), "model", 2)
    assert {"quiet.rate", "second.rate"} <= set(space.parameters())
    space.check_limits([Quiet(), Second()])
    assert space.policy({"quiet": "default", "second": "default"}) is None


def test_a_wrong_key_is_refused_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError("training began")

    monkeypatch.setattr(openedjob, "train_baseline", trained)
    with pytest.raises(UserError, match=r"ghost\.ratoi.*matches no parameter.*did you mean"):
        OpenedJob.open(job(space={"ghost": {"ratoi": 2}}))


def test_without_training_images_there_is_no_recover(opened: OpenedJob) -> None:
    space = JobSpace(opened.model, opened.methods, Limits(), "stage", 0)
    values = space.policy({"ghost": "default", "recover": "default"})
    assert values is not None
    assert values["recover.epochs"] == 0

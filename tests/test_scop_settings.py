"""Settings of SCOP's scores in a job. Scores are stored for each setting."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_networks import NARROW
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from autocompress.contract import Params, Space
from autocompress.data import Split
from autocompress.errors import UserError
from autocompress.job import Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy, Replay
from autocompress.testing import example_context, example_model
from autocompress.testing.rules import shapes
from autocompress_scop import control
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scoring import ScoreSettings

SETTINGS = ("knockoffs", "score_epochs", "score_images", "score_lr", "mixing")


def asked(model: nn.Module, scop: Scop, **limits: Any) -> Params:
    limits = {f"scop.{name}": value for name, value in limits.items()}
    return scop.search_space(Space(Replay({}), "model", limits).scope("scop"), model)


def job_with(**limits: Any) -> Job:
    """The shared job of all tests, whose baseline is trained once, with another space."""
    return load_job(
        model="resnet10t",
        model_args=NARROW,
        data="digits",
        baseline={"epochs": 4},
        budget={"epochs": 1},
        methods=["scop"],
        space={"scop": limits},
        name="scop-settings",
    )


def test_settings_are_not_searched_but_may_be_fixed() -> None:
    scop, model, own = Scop(), example_model(), ScoreSettings()
    space = Space(Replay(dict.fromkeys(SETTINGS, 2)), "model")
    params = scop.search_space(space, model)
    expected = (own.knockoffs, own.scales.epochs, own.images, own.scales.lr, own.scales.mixing)
    assert tuple(params[name] for name in SETTINGS) == expected
    assert all(len(space.asked[name].choices) == 1 for name in (*SETTINGS, "rescore_epochs"))
    assert scop.shared(params) == {} == scop.shared({})
    assert scop.shared(asked(model, scop, score_epochs=2)) == {**{name: params[name] for name in SETTINGS}} | {
        "score_epochs": 2
    }


def test_settings_of_a_method_are_its_defaults() -> None:
    scop = Scop(ScoreSettings(knockoffs="permute", images=16, scales=ScaleSettings(epochs=2, lr=0.01)))
    params = asked(example_model(), scop)
    assert [params[name] for name in SETTINGS] == ["permute", 2, 16, 0.01, "pre_bn"]
    assert scop.shared(params) == {}


def test_fixed_settings_of_a_job_are_those_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scop, model = Scop(), example_model()
    sizes: list[int] = []
    original = control.learn

    def watch(network: nn.Module, pairs: Any, split: Split, *others: Any, **named: Any) -> Any:
        sizes.append(len(split))
        return original(network, pairs, split, *others, **named)

    monkeypatch.setattr(control, "learn", watch)
    context = example_context(model, teacher=copy.deepcopy(model))
    params = asked(model, scop, knockoffs="permute", mixing="post_bn", score_epochs=2, score_lr=0.01, score_images=33)
    state = scop.prepare(copy.deepcopy(model), replace(context, params=scop.shared(params)))
    made = state["settings"]
    assert (made["knockoffs"], made["images"], made["scales"]) == (
        "permute",
        33,
        {"epochs": 2, "lr": 0.01, "mixing": "post_bn"},
    )
    assert sizes == [33]


def test_the_cost_of_scores_does_not_depend_on_the_size_of_the_data_set() -> None:
    scop, model = Scop(), example_model()
    context = example_context(model, teacher=copy.deepcopy(model))
    assert context.transfer is not None
    many = context.transfer.train.take(torch.arange(5000) % len(context.transfer.train))
    steps: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        state = scop.prepare(model, replace(context, transfer=replace(context.transfer, train=many)))
    finally:
        handle.remove()
    assert state["settings"]["images"] == 2048
    assert len(steps) == 32  # one epoch of 2,048 images in batches of 64


def test_scores_are_computed_once_for_each_setting(opened: OpenedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a recipe needs them first, not for a dry run, and not again in another run."""
    made: list[tuple[int, int]] = []
    original = control.learn

    def watch(
        network: nn.Module, pairs: Any, split: Split, source: Any, settings: ScaleSettings, **named: Any
    ) -> dict[str, torch.Tensor]:
        made.append((settings.epochs, len(split)))
        return original(network, pairs, split, source, settings, **named)

    del opened  # uses the baseline of the job above
    monkeypatch.setattr(control, "learn", watch)
    # No other test makes scores from 63 images, so they are not in the cache that all tests share.
    job = job_with(score_epochs=[3, 2], score_images=63)
    own = OpenedJob.open(job)
    values = {**own.compose(Policy({"prune": "default"})).values, "repair.fit": "none", "recover.epochs": 0}
    for number, epochs in enumerate((2, 3), start=1):
        for share in (0.75, 0.375):
            keep = {name: share for name in values if name.startswith("prune.keep.")}
            recipe = own.compose(Replay({**values, **keep, "scop.score_epochs": epochs}))
            dry = own.candidate(recipe, dry_run=True)
            assert len(made) == (number - 1 if share == 0.75 else number)
            assert shapes(dry.model) == shapes(own.candidate(recipe).model)
    assert made == [(2, 63), (3, 63)]
    again = OpenedJob.open(job)
    again.candidate(again.compose(Replay({**values, "scop.score_epochs": 3})))
    assert made == [(2, 63), (3, 63)], "stored for other runs"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"score_epochs": 0}, "1 .. 20"),
        ({"score_lr": 1.0}, "0.1"),
        ({"knockoffs": "photocopy"}, "gaussian | gan_cond | gan_uncond | permute"),
        ({"mixing": "stirred"}, "pre_bn | post_bn"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_trained(
    limits: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_named: object) -> None:
        raise AssertionError("told first")

    monkeypatch.setattr("autocompress.opened.job.train_baseline", never)
    with pytest.raises(UserError) as caught:
        OpenedJob.open(job_with(**limits))
    assert told in str(caught.value) or told in caught.value.hint

"""Typical mistakes in data sets, loggers, sources, pruners and methods for one family of networks.

One plugin has several mistakes, and the checks must report all of them at once.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from violations import told

from autocompress.authoring.examples.dataset import Example as Noise
from autocompress.authoring.examples.source import Example as NoiseSource
from autocompress.contract import (
    Context,
    Coupling,
    Params,
    Plan,
    Pruner,
    Space,
    Stage,
    TransferSet,
    Transform,
    hookimpl,
)
from autocompress.data import DataInfo, Source, TensorSplit
from autocompress.testing import check_dataset, check_observer, check_pruner, check_source, example_model
from autocompress.testing.families import check_families


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


# --- data sets ------------------------------------------------------------------------------------


class Leaky(Noise):
    """Validation images are training images, have values up to 255, one class, and another size."""

    def load(self, spec: str) -> Source:
        good = super().load(spec)
        assert isinstance(good.train, TensorSplit)
        assert isinstance(good.test, TensorSplit)
        info = DataInfo(2, 3, (20, 20), (127.0,) * 3, (60.0,) * 3, ("dark", "light"))
        pixels, labels = good.train.images, good.train.labels()
        dark = labels == 0
        train = TensorSplit(pixels.float(), labels, info)
        return Source(train, TensorSplit(pixels[dark].float(), labels[dark], info), None, info)


class OtherClasses(Noise):
    """The test split has a class that no training image has."""

    def load(self, spec: str) -> Source:
        good = super().load(spec)
        assert isinstance(good.train, TensorSplit)
        labels = torch.zeros_like(good.train.labels())
        return Source(TensorSplit(good.train.images, labels, good.info), good.val, good.test, good.info)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_targets_of_a_regression_have_no_classes(shape: tuple[int, ...]) -> None:
    class Depths(Noise):
        def load(self, spec: str) -> Source:
            good = super().load(spec)
            info = replace(good.info, num_classes=1, class_names=("depth",))
            splits = []
            for split in (good.train, good.val, good.test):
                assert isinstance(split, TensorSplit)
                generator = torch.Generator().manual_seed(len(split))
                targets = torch.rand((len(split), *shape), generator=generator)
                splits.append(TensorSplit(split.images, targets, info))
            return Source(*splits, info)

    check_dataset(Depths())


@pytest.mark.parametrize(
    ("provider", "rules"),
    [
        (
            Leaky(),
            [
                "mean and std must be in units of pixels from 0 to 1",
                "train must give images of (20, 20) pixels, as info says, not (16, 16)",
                "train and val share images (100% of those looked at)",
                "val has images of one class only",
            ],
        ),
        (OtherClasses(), ["test has classes of which train has no image ([1])"]),
    ],
    ids=["leaky", "classes"],
)
def test_all_mistakes_of_a_data_set_are_reported_at_once(provider: Noise, rules: list[str]) -> None:
    text = told(check_dataset, provider)
    assert all(rule in text for rule in rules), text


# --- loggers --------------------------------------------------------------------------------------


class Hopeful:
    """Expects an accuracy of every trial and a model of every search, and changes its arguments."""

    @hookimpl
    def autocompress_trial_finished(self, trial: dict[str, Any]) -> None:
        trial["seen"] = True
        os.environ["HOPEFUL"] = "1"
        f"{trial['accuracy']:.2f}"

    @hookimpl
    def autocompress_search_finished(self, result: Any) -> None:
        result.models.iloc[0]["accuracy"]


def test_all_mistakes_of_a_logger_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPEFUL", "0")  # restored at the end
    text = told(check_observer, Hopeful())
    for rule in (
        "raises for a trial that is failed: KeyError: 'accuracy'",
        "raises for a search in which every trial failed: IndexError",
        "autocompress_trial_finished must not change the row",
        "a logger must not change environment variables of the search: HOPEFUL",
    ):
        assert rule in text
    assert "complete" not in text


class Keeps:
    """Has a list for each running search."""

    def __init__(self) -> None:
        self.lines: list[int] | None = None
        self.ends: list[str] = []

    @hookimpl
    def autocompress_search_started(self) -> None:
        assert self.lines is None
        self.lines = []

    @hookimpl
    def autocompress_trial_finished(self, trial: Any) -> None:
        assert self.lines is not None
        self.lines.append(trial["trial"])

    @hookimpl
    def autocompress_search_finished(self) -> None:
        assert self.lines
        self.lines = None
        self.ends.append("finished")

    @hookimpl
    def autocompress_search_stopped(self) -> None:
        assert self.lines is not None
        self.lines = None
        self.ends.append("stopped")


def test_a_logger_gets_begin_and_end_of_each_search() -> None:
    logger = Keeps()
    assert "autocompress_search_stopped" in check_observer(logger)
    assert logger.ends == ["finished", "finished", "stopped"]


# --- sources and pruners --------------------------------------------------------------------------


class Forgetful(NoiseSource):
    """Ignores its seed, leaves a hook on the teacher, and changes its parameters."""

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        teacher.register_forward_hook(lambda *_: None)
        images = int(params.pop("images"))
        return super().apply(teacher, {"images": images}, Context(context.input_size, seed=5))


def test_all_mistakes_of_a_source_are_reported_at_once(model: nn.Module) -> None:
    text = told(check_source, Forgetful(), model)
    for rule in (
        "another context.seed must give other images",
        "apply must leave the teacher as it is: hooks",
        "apply must leave params as they are",
    ):
        assert rule in text


class Sloppy(Pruner):
    """Orders at random, changes the network, and leaves out a coupling."""

    name, version, reference = "sloppy", "1", "none"

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        assert context.model is not None
        with torch.no_grad():
            next(context.model.parameters()).add_(1)
        return list(coupling.ranked(torch.rand(coupling.channels).tolist()))

    def orders(self, couplings: Any, params: Params, context: Context) -> Any:
        found = super().orders(couplings, params, context)
        return dict(list(found.items())[1:])


def test_all_mistakes_of_a_pruner_are_reported_at_once(model: nn.Module) -> None:
    text = told(check_pruner, Sloppy(), model)
    for rule in (
        "orders must have an order for each coupling",
        "orders must leave context.model as it is",
        "the orders must be equal for equal context.seed",
    ):
        assert rule in text


# --- one family of networks -----------------------------------------------------------------------


class ForResNets(Transform):
    """Uses a stage that only some networks have."""

    name, version, stage, reference = "resnets", "1", Stage.SUBSTITUTE, "none"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"on": True} if space.categorical("on", [True, False], default=True, neutral=False) else {}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model.get_submodule("layer1.0").register_module("act1", nn.Hardswish())
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return self.apply(model, {}, Context((3, 32, 32)))[0]


class Considerate(ForResNets):
    """Checks for which networks it works."""

    def check(self, model: nn.Module, job: Any) -> list[str]:
        return [] if hasattr(model, "layer1") else ["the network has no layer1"]


def test_a_method_for_one_family_must_check_the_network() -> None:
    text = told(check_families, ForResNets())
    assert "on test_vit, a plugin must not raise AttributeError here" in text
    assert "let check give a reason" in text
    check_families(Considerate())

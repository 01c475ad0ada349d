"""Typical mistakes in devices, data sets, loggers, sources and methods for one family of networks.

One plugin has several mistakes, and the checks must report all of them at once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from autocompress.authoring.examples.dataset import Example as Noise
from autocompress.authoring.examples.device import Example as Runtime
from autocompress.authoring.examples.source import Example as NoiseSource
from autocompress.contract import (
    Context,
    Coupling,
    Deployable,
    Device,
    Manager,
    Measurement,
    Params,
    Plan,
    Pruner,
    Space,
    Stage,
    TransferSet,
    Transform,
    hookimpl,
)
from autocompress.data import DataInfo, Source, TensorSplit, load
from autocompress.errors import UserError
from autocompress.job import DataConfig, DeviceConfig
from autocompress.testing import (
    ContractViolation,
    check_dataset,
    check_device,
    check_observer,
    check_pruner,
    check_source,
    example_model,
)
from autocompress.testing.families import check_families


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


def told(check: Callable[..., Any], *arguments: Any) -> str:
    """All rules that ``check`` reports as broken."""
    with pytest.raises(ContractViolation) as caught:
        check(*arguments)
    return "\n".join(caught.value.rules)


# --- devices --------------------------------------------------------------------------------------


class Loose(BaseModel):
    """Options without ``extra="forbid"``, one of them without a default."""

    level: int


class Careless(Runtime):
    """Many small mistakes, none of which prevents it from running a model."""

    name = "careless"
    Options = Loose
    opened: ClassVar[list[Any]] = []

    def named(self, name: str) -> Device | None:
        return self

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        return {"time": time.time()}

    def is_in_thread(self, config: DeviceConfig) -> bool:
        return "yes"  # type: ignore[return-value]

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        os.environ["CARELESS"] = "1"
        if not self.opened:  # it returns the first model every time
            session = onnxruntime.InferenceSession(str(deployable.file), providers=["CPUExecutionProvider"])
            self.opened.append(session)
        session, images[:] = self.opened[0], 0
        return lambda: session.run(None, {session.get_inputs()[0].name: images})


@pytest.mark.slow
def test_all_mistakes_of_a_device_are_reported_at_once(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELESS", "0")  # restored at the end
    text = told(check_device, Careless(), model)
    for rule in (
        "named must give None for names of other devices",
        "give each one a default",
        "Options must forbid unknown keys",
        "is_in_thread must return True or False",
        "environment must be the same each time",
        "open must not change the images",
        "open must raise TrialFailed for a model that cannot be loaded; a device must open the model that it is given",
        "but changes environment variables",
    ):
        assert rule in text


class Upside(Device):
    """A cost model with an inverted ratio, and with costs that differ between calls."""

    name, deterministic = "upside", True

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        cost = 2.0 + time.perf_counter()
        return Measurement(cost, 0.5, 0.5, 0.5, 1.0)


class Inverted(Device):
    """A cost model that divides the baseline by the candidate. Equal models do not show it."""

    name, deterministic = "inverted", True

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        own, base = (float(sum(one.operations for one in file.operators)) for file in (candidate, baseline))
        return Measurement(own, base / own, base / own, base / own, base)


class NoEnergy(Device):
    """Promises energy, and gives none."""

    name, deterministic, measures = "no-energy", True, frozenset({"latency", "energy"})

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        return Measurement(1.0, 1.0, 1.0, 1.0, 1.0)


class NanLate(Device):
    """Gives NaN for each model but the baseline."""

    name, deterministic = "nan-late", True

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        return Measurement(1.0 if candidate == baseline else float("nan"), 1.0, 1.0, 1.0, 1.0)


class JustFloat(Device):
    """Gives a ratio in place of a measurement."""

    name, deterministic = "just-float", True

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        return 1.0  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("device", "rule"),
    [
        (Inverted(), "latency_ratio must be latency_ms / baseline_ms, candidate / baseline: "),
        (NoEnergy(), "no-energy gave no value for the energy, which it measures"),
        (NanLate(), "nan-late gave nan for the latency"),
        (JustFloat(), "just-float gave float instead of a Measurement: compare must return a Measurement"),
    ],
)
def test_costs_that_cannot_be_are_named(device: Device, rule: str, model: nn.Module) -> None:
    assert rule in told(check_device, device, model)


class Trains(Runtime):
    """Runs the torch module, and leaves it in training mode."""

    name, formats = "trains", frozenset({"torch"})

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        model, batch = deployable.model().requires_grad_(False), torch.from_numpy(images)

        def run() -> None:
            model.eval()(batch)
            model.train()

        return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "rules"),
    [
        (Upside(), ["must give the same figures again"]),
        (Trains(), ["a device must not change the model: it is left in training mode", "requires_grad"]),
    ],
    ids=["upside", "trains"],
)
def test_a_mistake_of_a_device_is_found(device: Device, rules: list[str]) -> None:
    text = told(check_device, device, example_model())
    assert all(rule in text for rule in rules), text


def test_a_device_without_a_way_to_run_models_is_refused_at_registration() -> None:
    class Nothing(Device):
        name = "nothing"

    class Half(Device):
        name, deterministic = "half", True

    class Wrong(Runtime):
        name, Options = "wrong", dict  # type: ignore[assignment]

    class Greedy(Runtime):
        name = "greedy"

        def named(self, name: str) -> Device | None:
            return self

    devices = [Nothing(), Half(), Wrong(), Greedy(), Runtime()]
    plugin = SimpleNamespace(autocompress_devices=hookimpl(lambda: devices))
    found = Manager([plugin], entry_points=False)
    assert [device.name for device in found.devices()] == ["example"]
    assert [broken.reason for broken in found.broken] == [
        "the device 'nothing' has no method open, by which models are run",
        "the device 'half' has no method compare, by which costs are computed",
        "the device 'wrong' has <class 'dict'> as Options: it must be a pydantic model, the class itself",
        f"the device 'greedy' gives {devices[3]!r} in named for a name that is not its own, not None",
    ]


def test_claims_may_return_any_object_that_is_true_or_false() -> None:
    class Matches(Noise):
        name = "matches"

        def claims(self, spec: str) -> Any:
            return re.match("matches:", spec)

    one = Matches()
    found = Manager([SimpleNamespace(autocompress_datasets=hookimpl(lambda: [one]))], entry_points=False)
    assert found.datasets() == [one]
    assert not found.broken


def test_a_data_set_whose_claims_raise_does_not_disable_others() -> None:
    class Raises(Noise):
        name = "raises"

        def claims(self, spec: str) -> bool:
            return spec[99] == "x"

    plugin = SimpleNamespace(autocompress_datasets=hookimpl(lambda: [Raises(), Noise()]))
    found = Manager([plugin], entry_points=False)
    assert [one.name for one in found.datasets()] == ["example"]
    assert found.broken[0].reason == "the data set 'raises' raises in claims: IndexError: string index out of range"


@pytest.mark.parametrize(
    ("fault", "words"), [("raise", "cannot be loaded: KeyError: 'lost'"), ("none", "gives a NoneType, not a Source")]
)
def test_a_data_set_that_cannot_be_loaded_is_named(fault: str, words: str) -> None:
    class Breaks(Noise):
        def load(self, spec: str) -> Source:
            if fault == "raise":
                raise KeyError("lost")
            return None  # type: ignore[return-value]

    with pytest.raises(UserError, match=f"the data set 'example' {words}"):
        load(DataConfig(train="example", val="example", test="example"), [Breaks()])


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

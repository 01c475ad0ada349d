"""Typical mistakes in devices, and in devices and data sets that registration refuses."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import BaseModel
from torch import nn
from violations import told

from autocompress.authoring.examples.dataset import Example as Noise
from autocompress.authoring.examples.device import Example as Runtime
from autocompress.contract import Deployable, Device, Manager, Measurement, hookimpl
from autocompress.data import Source, load
from autocompress.errors import UserError
from autocompress.job import DataConfig, DeviceConfig
from autocompress.testing import check_device, example_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


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

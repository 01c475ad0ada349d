"""The contract of devices: the work of the engine for all devices, and the conformance checks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from test_onnxruntime_cpu import save_network
from torch import nn

from autocompress.contract import Deployable, Device, Manager, Measurement, manager
from autocompress.devices import OnnxRuntimeCpu, TorchEager, measure
from autocompress.devices.lock import MachineLock, _handles
from autocompress.devices.measuring import SITTINGS, run_once
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig, load_job, validate
from autocompress.testing import ContractViolation, check_device, example_model

SIZE = (3, 32, 32)


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "torch-eager", "cost-model:bitops", "cost-model:45nm"])
def test_our_devices_conform(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it again
    check_device(manager().device(name))


class Counting(Device):
    """Runs nothing, and records the calls of the engine."""

    name = "counting"
    formats = frozenset({"torch"})

    def __init__(self) -> None:
        self.opened: list[tuple[int, ...]] = []
        self.runs = 0

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        return {"version": "7"}

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        deployable.model()
        self.opened.append(images.shape)

        def run() -> None:
            self.runs += 1

        return run


def test_the_engine_provides_batches_blocks_and_intervals() -> None:
    device, made = Counting(), []
    file = Deployable(Path("none.onnx"), SIZE, module=lambda: made.append(1) or nn.Identity())
    found = measure(device, file, file, DeviceConfig(batch=5, input_size=24), seconds=0.05)
    assert set(device.opened) == {(5, 3, 24, 24)}
    assert len(device.opened) == 2 * SITTINGS, "each sitting opens both models again"
    assert device.runs > 2 * SITTINGS
    assert len(made) == 1, "the module is made once"
    assert found.ratio_low < found.latency_ratio < found.ratio_high
    assert {"version": "7", "batch": 5, "sittings": SITTINGS}.items() <= found.environment.items()
    assert found.environment["processor"]
    check_device(device)


def test_a_short_measurement_takes_the_machine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time, every training must give way first, which took longer than the measurement."""
    taken, exclusive = [], MachineLock.exclusive

    def counted(lock: MachineLock) -> AbstractContextManager[None]:
        taken.append(lock)
        return exclusive(lock)

    monkeypatch.setattr(MachineLock, "exclusive", counted)
    file = Deployable(Path("none.onnx"), SIZE, module=nn.Identity)
    found = measure(Counting(), file, file, DeviceConfig(), seconds=0.05)
    assert found.environment["sittings"] == SITTINGS
    assert len(taken) == 1


def test_a_device_prepares_models_while_nobody_measures() -> None:
    """Its runtime may then load the models, which would disturb the measurements of others."""
    held: list[str | None] = []

    class Preparing(Counting):
        name = "preparing"

        def prepare(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> None:
            held.extend(lock._held for lock in list(_handles) if not lock.closed and lock._held)
            held.append(None)

    file = Deployable(Path("none.onnx"), SIZE, module=nn.Identity)
    measure(Preparing(), file, file, DeviceConfig(), seconds=0.05)
    assert held == ["shared", None, "shared", None]
    del held[:]
    with MachineLock().shared():  # as the first process of a search does
        run_once(Preparing(), file, DeviceConfig())
    assert held == ["shared", None]


def test_a_model_without_the_format_of_the_device_fails_the_trial() -> None:
    file = Deployable(Path("none.onnx"), SIZE)
    with pytest.raises(TrialFailed, match=r"no torch module of 'none\.onnx'"):
        measure(TorchEager(), file, file, DeviceConfig(), seconds=0.05)
    with pytest.raises(TrialFailed, match="known formats: onnx, torch"):
        file.convert("tflite")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks are counted by open files")
def test_measuring_leaves_no_open_files(tmp_path: Path) -> None:
    def opened() -> list[str]:
        """Open files, without sockets and pipes, which threads of other tests open and close."""
        numbers = Path("/proc/self/fd").iterdir()
        return sorted(str(path.resolve()) for path in numbers if path.is_file())

    file = save_network(tmp_path / "model.onnx")
    measure(OnnxRuntimeCpu(), file, file, DeviceConfig(), seconds=0.05)
    before = opened()
    for _ in range(2):
        measure(OnnxRuntimeCpu(), file, file, DeviceConfig(), seconds=0.05)
    assert len(opened()) <= len(before), (before, opened())


def test_torch_eager_uses_the_threads_of_the_job() -> None:
    seen: list[tuple[int, tuple[int, ...], bool]] = []

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.get_num_threads(), tuple(x.shape), torch.is_inference_mode_enabled()))
            return x

    config = DeviceConfig(name="torch-eager", threads=2, batch=3, options={"compute": "cpu"})
    threads = torch.get_num_threads()
    run = TorchEager().open(Deployable(Path("x"), SIZE, module=Seen), np.zeros((3, *SIZE), np.float32), config)
    run()
    assert seen == [(2, (3, *SIZE), True)]
    assert torch.get_num_threads() == threads
    assert not TorchEager().is_in_thread(config)


def job(**device: Any) -> Any:
    return load_job(settings={"model": "resnet10t", "data": "digits", "device": device})


def test_options_of_a_job_are_those_of_the_device() -> None:
    validate(job(name="torch-eager", options={"compute": "cpu"}), manager())
    with pytest.raises(UserError, match=r"device\.options\.speed' is not an option of the device") as unknown:
        validate(job(name="torch-eager", options={"speed": 3}), manager())
    assert "compute" in str(unknown.value.hint)
    with pytest.raises(UserError, match=r"device\.options\.compute' is wrong: Input should be 'auto', 'cpu' or 'cuda'"):
        validate(job(name="torch-eager", options={"compute": "tpu"}), manager())
    with pytest.raises(UserError, match="is not an option of the device"):
        validate(job(name="onnxruntime-cpu", options={"compute": "cpu"}), manager())


def test_torch_eager_only_reserves_a_gpu_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = DeviceConfig(name="torch-eager", options={"compute": "cuda"})
    assert TorchEager().check(asked) == ["torch finds no CUDA device"]
    assert TorchEager().check(DeviceConfig(name="torch-eager")) == []
    assert TorchEager().environment(DeviceConfig(name="torch-eager"))["compute"] == "cpu"


class Loose(Counting):
    """Accepts any option."""

    class Options(BaseModel):
        """No options."""


class Changing(Counting):
    """Changes the model."""

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        with torch.no_grad():
            next(iter(deployable.model().parameters())).mul_(2)
        return super().open(deployable, images, config)


class Moody(Device):
    """Claims to be deterministic, and is not."""

    name, deterministic, costs = "moody", True, 1.0

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        self.costs += 1
        return Measurement(self.costs, 1.0, 1.0, 1.0, self.costs)


class Given(Device):
    """Gives what it was made with for each file, and measures latency and energy."""

    name, deterministic, measures = "given", True, frozenset({"latency", "energy"})

    def __init__(self, found: Any) -> None:
        self.found = found

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        return self.found


class Far(Counting):
    """Runs models elsewhere, where a clock does not work."""

    name, is_local = "far", False

    def time_elsewhere(self, *_: Any) -> list[tuple[list[float], list[float]]]:
        return [([0.0], [1.0])]


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        (Given(Measurement(math.nan, 1.0, 1.0, 1.0, 1.0, 1.0)), "gave nan for the latency"),
        (Given(Measurement(1.0, 1.0, 1.0, 1.0, math.inf, 1.0)), "gave inf for the latency of the baseline"),
        (Given(Measurement(1.0, -1.0, 1.0, 1.0, 1.0, 1.0)), "gave -1 for the ratio of latencies"),
        (Given(Measurement(1.0, 1.0, 1.0, 1.0, 1.0, 0.0)), "gave 0 for the energy"),
        (Given(Measurement(1.0, 1.0, 1.0, 1.0, 1.0)), "gave no value for the energy, which it measures"),
        (Given(1.5), "gave float instead of a Measurement: compare must return a Measurement"),
        (Far(), "gave 0 for the latency"),
    ],
)
def test_a_measurement_that_is_no_cost_fails_the_trial(device: Device, fault: str) -> None:
    file = Deployable(Path("none.onnx"), SIZE, module=nn.Identity)
    with pytest.raises(TrialFailed) as failed:
        measure(device, file, file, DeviceConfig(name=device.name))
    assert str(failed.value) == f"device '{device.name}' {fault}"


@pytest.mark.parametrize(
    ("device", "rule"),
    [
        (Loose(), "Options must forbid unknown keys"),
        (Changing(), "a device must not change the model"),
        (Moody(), "a deterministic device must give the same figures again"),
    ],
)
def test_the_broken_rule_of_a_device_is_named(device: Device, rule: str) -> None:
    with pytest.raises(ContractViolation, match=rule):
        check_device(device, example_model())


def test_both_local_devices_are_registered() -> None:
    names = [device.name for device in Manager().devices()]
    assert names[:3] == ["onnxruntime-cpu", "openvino-cpu", "torch-eager"]

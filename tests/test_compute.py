"""Compute: keys of a job, refusals, memory formats that are chosen once, mixed precision."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import nn
from toy_search import OpenedToy, ToyDevice, offer_toy_device, open_toy, toy_job

from autocompress import models
from autocompress.compute import Compute, compute_of, long_lived
from autocompress.contract import Callback
from autocompress.data import DataInfo, Split, TensorSplit
from autocompress.errors import UserError
from autocompress.files import digest
from autocompress.job import ComputeConfig, Job, load_job
from autocompress.opened.computing import SWITCH, decided
from autocompress.opened.job import OpenedJob
from autocompress.opened.memory_notes import memory_notes, moments_bytes
from autocompress.searching import run
from autocompress.searching.begun import as_begun, begun_with
from autocompress.store import Store
from autocompress.testing import example_model, pretended_gpu
from autocompress.training import Training, TrainSettings, computed_with, evaluate, layout, logits, predictions
from autocompress.training.checkpoint import Checkpoint

LAST = replace(Compute(), channels_last=True)
SETTINGS = TrainSettings(epochs=2.75, lr=3e-3, batch_size=16)


def test_the_keys_of_a_job_become_a_compute() -> None:
    asked = ComputeConfig(device="cpu", precision="float32", channels_last=True, compile=True, threads=3)
    assert compute_of(asked) == Compute(torch.device("cpu"), None, channels_last=True, compile=True, threads=3)
    assert not compute_of(ComputeConfig(device="cpu")).channels_last, "auto is measured later"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"device": "cuda"}, "'compute.device' is 'cuda', but torch finds no GPU here"),
        ({"device": "cpu", "precision": "fp16"}, "fp16, which this processor only emulates"),
        ({"device": "cpu", "precision": "bf16"}, "bf16, which this processor only emulates"),
    ],
)
def test_settings_that_this_machine_does_not_support_are_refused(
    asked: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.compute.has_native_bfloat16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=sentence):
        compute_of(ComputeConfig(**asked))


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    with pytest.raises(UserError, match="'cuda:2', but the GPUs are cuda:0 to cuda:1 here"):
        compute_of(ComputeConfig(device="cuda:2"))
    assert compute_of(ComputeConfig(device="cuda:1")).half is torch.bfloat16


@pytest.mark.parametrize("asked", [{"device": "tpu"}, {"precision": "int8"}, {"threads": 0}, {"channels_last": "no"}])
def test_unknown_values_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ComputeConfig(**asked)


def test_settings_that_change_results_are_in_the_keys() -> None:
    own = Compute()
    others = [own, LAST, replace(own, compile=True), replace(own, half=torch.bfloat16), replace(own, threads=3)]
    keys = [digest(computed_with(one)) for one in others]
    assert len(set(keys)) == 4, "threads change last bits only"
    assert keys[0] == keys[-1]


class Formats(Callback):
    """Records whether the first convolution and its input are in the format channels last."""

    def __init__(self, model: nn.Module, killed_at: int | None = None) -> None:
        self.found: list[bool] = []
        self.killed_at = killed_at
        first = model[0]  # type: ignore[index]
        first.register_forward_hook(lambda _, given, __: self.note(given[0], first.weight))

    def note(self, *tensors: torch.Tensor) -> None:
        self.found.append(all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors))

    def before_step(self, model: nn.Module, step: int) -> None:
        if step == self.killed_at:
            raise KeyboardInterrupt


def split() -> Split:
    info = DataInfo(4, 2, (8, 8), (0.5, 0.5), (0.5, 0.5), tuple("abcd"))
    images = torch.randint(0, 256, (64, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return TensorSplit(images, torch.arange(64) % 4, info)


def network() -> nn.Module:
    """A network whose convolutions have different memory formats."""
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6 * 16, 4))


def trained(compute: Compute, file: Path | None = None, killed_at: int | None = None) -> tuple[nn.Module, Formats]:
    model = network()
    callback = Formats(model, killed_at)
    ticks = iter(range(10_000))
    checkpoint = None if file is None else Checkpoint(file, 1.0, lambda: float(next(ticks)))
    training = Training(model, split(), SETTINGS, callbacks=[callback], seed=3, compute=compute, checkpoint=checkpoint)
    if killed_at is None:
        training.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            training.run()
    return model, callback


def test_channels_last_trains_the_same_network_and_leaves_the_default_format(tmp_path: Path) -> None:
    default, _ = trained(Compute())
    model, callback = trained(LAST)
    assert callback.found
    assert all(callback.found)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, default.state_dict()[name], atol=1e-4), name
        assert tensor.is_contiguous(), name
    trained(LAST, tmp_path / "one.safetensors", killed_at=5)
    again, _ = trained(LAST, tmp_path / "one.safetensors")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), f"{name}: the optimizer's states have another format"


def test_batch_norm_statistics_stay_in_float32_under_mixed_precision() -> None:
    found: dict[str, nn.Module] = {}
    for name, half in (("full", None), ("half", torch.bfloat16)):
        found[name] = network()
        Training(found[name], split(), SETTINGS, seed=3, compute=Compute(half=half)).run()
    full, half_ = found["full"].state_dict(), found["half"].state_dict()
    assert half_["1.running_var"].dtype == torch.float32
    assert not torch.equal(full["0.weight"], half_["0.weight"]), "mixed precision was on"
    for statistic in ("1.running_mean", "1.running_var"):
        assert torch.allclose(full[statistic], half_[statistic], rtol=0.05, atol=0.02)


def test_the_faster_format_is_stored_and_used_by_later_runs(tmp_path: Path) -> None:
    model, store = example_model(), Store(tmp_path)
    times = iter([0.0] + [0.0, 1.0, 1.0, 1.5] * 2 + [9.0])
    assert layout.is_faster_last(model, Compute(), store, clock=lambda: next(times))
    never = iter(())
    assert layout.is_faster_last(model, Compute(), store, clock=lambda: next(never)), "stored by class of machine"
    little = iter([0.0] + [0.0, 1.0, 1.0, 1.97] * 2 + [9.0])
    other = Store(tmp_path / "other")
    assert not layout.is_faster_last(model, Compute(), other, clock=lambda: next(little)), (
        "the difference is smaller than the noise"
    )


def test_formats_with_a_clear_difference_are_timed_once(tmp_path: Path) -> None:
    model = example_model()
    times = iter([0.0] + [0.0, 1.0, 1.0, 1.5] * 2 + [2.0])
    assert layout.is_faster_last(model, Compute(), Store(tmp_path / "apart"), clock=lambda: next(times))
    close = iter([0.0] + [0.0, 1.0, 1.0, 1.97] * 2 + [2.0] + [0.0, 1.0, 1.0, 1.9] + [9.0])
    assert layout.is_faster_last(model, Compute(), Store(tmp_path / "close"), clock=lambda: next(close))


def test_a_job_without_a_memory_format_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, model, store = job_of(tmp_path), example_model(), Store(tmp_path)
    monkeypatch.setattr("autocompress.opened.computing.is_faster_last", lambda *_: True)
    assert decided(job, model, store)[0].compute.channels_last is False, "tests switch timing off"
    monkeypatch.setenv(SWITCH, "on")
    told, compute = decided(job, model, store)
    assert told.compute.channels_last is True
    assert compute.channels_last
    monkeypatch.setattr("autocompress.opened.computing.is_faster_last", lambda *_: 1 / 0)
    assert decided(job, model, store)[0].compute.channels_last is False, "an error of the timing does not end a search"
    assert decided(told, model, store)[0] is told, "a worker measures nothing"


def job_of(folder: Path) -> Job:
    return load_job(model="test_resnet", data="digits", results=folder, name="test")


@pytest.mark.usefixtures("search_here")
def test_a_resume_computes_like_the_first_run(tmp_path: Path) -> None:
    offer_toy_device()
    seen: list[bool | str] = []

    def opener(job: Job, progress: Any = None) -> OpenedToy:
        seen.append(job.compute.channels_last)
        asked = job.compute.channels_last
        config = job.compute.model_copy(update={"channels_last": True if asked == "auto" else asked})
        return open_toy(job.model_copy(update={"compute": config}), progress)

    job = toy_job(tmp_path, budget={"trials": 2})
    run.search(job, opener=opener)
    assert yaml.safe_load((job.folder / "job.yaml").read_text())["compute"]["channels_last"] == "auto"
    assert seen[0] == "auto"
    assert set(seen[1:]) <= {True}, "workers get the driver's answer"
    seen.clear()
    run.resume(job.folder, trials=3, opener=opener)
    assert set(seen) == {True}


def test_runs_of_earlier_versions_can_be_resumed(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    assert as_begun(job, None) is job
    assert as_begun(job, {"job": {}}).compute.channels_last is False, "earlier versions had one memory format"
    assert not begun_with(job, ToyDevice())["job"]["compute"], "a key that an earlier version does not have is None"


def test_on_a_gpu_trials_score_the_torch_model_and_the_front_the_file(
    opened: OpenedJob,
) -> None:
    few = opened.splits.val.subset(24)
    splits = replace(opened.splits, val=few, whole_val=few, test=few)
    file = opened.baseline.deployable
    with pretended_gpu() as gpu:
        there = replace(opened, splits=splits, pipeline=replace(opened.pipeline, compute=gpu.compute))
        seen: list[str] = []
        handle = opened.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].device.type))
        try:
            judged = there.accuracy(file, "val")
            assert set(seen) == {"cuda"}
            seen.clear()
            front = [there.accuracy(file, "whole_val"), there.accuracy(file, "test")]
            assert not seen
        finally:
            handle.remove()
        assert next(opened.model.parameters()).device.type == "cpu"
    assert all((judged[1] == one[1]).all() for one in front)


def test_predictions_do_not_keep_logits_and_count_nan_as_wrong() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs = x.flatten(1)[:, :4].clone()
            outputs[0, 2] = float("nan")
            return outputs

    some = split()
    found = predictions(Broken(), some, batch_size=16)
    assert (found == -1).sum() == 4
    assert torch.equal(found[1:16], logits(Broken(), some, batch_size=16)[1:16].argmax(1))
    assert not evaluate(Broken(), some, batch_size=16)[1][::16].any()


def test_a_compiled_network_is_trained_through_its_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def compiled(model: nn.Module) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return model(x)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    plain, _ = trained(Compute())
    own, _ = trained(Compute(compile=True))
    assert calls == [16] * 11
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_large_moments_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path)
    assert memory_notes(job, example_model()) == ()
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3, groups=2), nn.Flatten(), nn.Linear(9000, 8000)
    wide = nn.Sequential(*layers)
    own = 8 * 2 * 36**2 + 4 * 8192 * 9000
    assert moments_bytes(wide, (3, 34, 34)) == own, "all layers except the one that reads the image"
    tiny = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
    assert moments_bytes(tiny, (3, 1, 1)) == 8 * 8**2, "taps that only read padding have no columns"
    wide.append(nn.Linear(8000, 2))
    monkeypatch.setattr(models, "input_size", lambda model: (3, 34, 34))
    assert re.fullmatch(r"estimate: the moments of the layers take 0.8 GB in each of 3 .*", memory_notes(job, wide)[0])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9))
    assert "1.0 GB are free: lower workers" in memory_notes(job, wide)[0]
    off = job.model_copy(update={"search": job.search.model_copy(update={"repair": False})})
    assert memory_notes(off, wide) == ()


@pytest.mark.parametrize("frozen", [0, 5])
def test_objects_that_the_caller_has_frozen_stay_frozen(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, lambda name=name: called.append(name))
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    with long_lived():
        assert called == ["collect", "freeze"]
    assert called[2:] == ([] if frozen else ["unfreeze"])

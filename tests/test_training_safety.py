"""Trainings with too little memory, accumulated gradients, averaged weights, and GPU memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autocompress import forking, models
from autocompress.compute import Compute, give_memory_back
from autocompress.contract import Callback
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.errors import TooLittleMemory, TrialFailed, UserError
from autocompress.job import load_job
from autocompress.training import Training, TrainSettings, train_baseline
from autocompress.training.checkpoint import Checkpoint
from autocompress.training.loop import CHECKED_EVERY
from autocompress.training.trainer import baseline_settings

INFO = DataInfo(4, 2, (8, 8), (0.5, 0.5), (0.5, 0.5), tuple("abcd"))


def split(count: int = 64) -> TensorSplit:
    images = torch.randint(0, 256, (count, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return TensorSplit(images, torch.arange(count) % 4, INFO)


class Small(nn.Module):
    """A network with memory for a few images only."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.room, self.seen = room, list[int]()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(len(x))
        return self.body(x)


class Rates(Callback):
    """Records the learning rate of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self.found.append(optimizer.param_groups[0]["lr"])


def trained(
    model: nn.Module, settings: TrainSettings, **options: Any
) -> tuple[dict[str, torch.Tensor], list[float], Training]:
    rates = Rates()
    training = Training(model, split(), settings, callbacks=[rates], seed=3, **options)
    training.run()
    return model.state_dict(), rates.found, training


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in one.items())


def test_too_little_memory_halves_the_batch_and_keeps_the_schedule() -> None:
    settings = TrainSettings(epochs=2, batch_size=32)
    whole, rates, _ = trained(Small(32), settings)
    model = Small(10)
    parts, own, training = trained(model, settings)
    assert set(model.seen) == {8}
    assert training.step == 4
    assert own == rates
    assert close(parts, whole), "the gradient is that of the whole batch"


def test_a_network_too_large_for_one_image_is_an_error() -> None:
    with pytest.raises(TooLittleMemory, match="too little memory to train on one image at a time: CUDA out of memory"):
        trained(Small(0), TrainSettings(batch_size=4))
    tiny = nn.Sequential(Small(1), nn.BatchNorm1d(4))
    with pytest.raises(TooLittleMemory, match="train on 2 images at a time"):
        trained(tiny, TrainSettings(batch_size=4))


def test_other_errors_are_raised_at_once() -> None:
    class Wrong(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(x))
            raise RuntimeError("shapes do not fit")

    model = Wrong(1)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained(model, TrainSettings(batch_size=4))
    assert model.seen == [4]


def test_a_baseline_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(Training, "_loss", full)
    splits = Splits(split(8), split(8), split(8), INFO)
    job = load_job(model="test_resnet", data="digits", name="test")
    with pytest.raises(UserError, match="the baseline 'test_resnet' cannot be trained here: there is too little"):
        train_baseline(job, models.create(job, INFO), splits)


def test_gradients_of_several_batches_make_one_step() -> None:
    large, _, one = trained(Small(64), TrainSettings(epochs=3, batch_size=32))
    model = Small(64)
    added, _, other = trained(model, TrainSettings(epochs=3, batch_size=8, accumulate=4))
    assert set(model.seen) == {8}
    assert one.step == other.step == 6
    assert close(added, large)


def test_few_images_are_not_divided_into_batches_that_batch_norm_refuses() -> None:
    model = nn.Sequential(Small(64), nn.BatchNorm1d(4))
    training = Training(model, split(5), TrainSettings(epochs=1, batch_size=2, accumulate=4))
    training.run()
    assert set(model[0].seen) == {2, 3}
    short = nn.Sequential(Small(2), nn.BatchNorm1d(4))
    with pytest.raises(TooLittleMemory, match="train on 2 images at a time"):
        Training(short, split(5), TrainSettings(epochs=1, batch_size=2, accumulate=4)).run()


def test_averaged_weights_are_between_those_of_steps_and_survive_a_kill(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=6, batch_size=16, lr=0.02)
    last = trained(Small(64), settings)[0]
    averaged = TrainSettings(epochs=6, batch_size=16, lr=0.02, ema=0.999)
    mean = trained(Small(64), averaged)[0]
    first = Small(64).state_dict()
    names = [name for name in mean if name.endswith("weight")]
    moved = [float((mean[name] - first[name]).norm() / (last[name] - first[name]).norm()) for name in names]
    assert all(0.1 < share < 1.0 for share in moved), moved

    def die(done: float, _: str) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    def kept() -> Checkpoint:
        ticks = iter(range(1000))
        return Checkpoint(tmp_path / "one.safetensors", 1.0, lambda: float(next(ticks)))

    with pytest.raises(KeyboardInterrupt):
        trained(Small(64), averaged, checkpoint=kept(), progress=die)
    again = trained(Small(64), averaged, checkpoint=kept())[0]
    assert all(torch.equal(again[name], mean[name]) for name in mean)


def test_a_job_can_ask_for_both() -> None:
    job = load_job(model="test_resnet", data="digits", name="test", baseline={"ema": 0.999, "accumulate": 2})
    settings = baseline_settings(job)
    assert (settings.ema, settings.accumulate) == (0.999, 2)


def test_nan_is_noticed_before_the_epoch_ends_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs = super().forward(x)
            return outputs * float("nan") if len(self.seen) > 7 else outputs

    monkeypatch.setattr(Compute, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(Compute, "random_devices", property(lambda _: []))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(1))
    model, told = Broken(64), "the training loss is nan at step"
    with pytest.raises(TrialFailed, match=told):
        Training(model, split(800), TrainSettings(epochs=1, batch_size=4), seed=3).run()
    assert 8 <= len(model.seen) <= CHECKED_EVERY <= 100


@pytest.mark.parametrize(("is_used", "calls"), [(True, 1), (False, 0)])
def test_memory_of_a_gpu_is_released(is_used: bool, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(1))
    give_memory_back()
    assert len(found) == calls


def test_a_lost_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", gone)
    with pytest.raises(TrialFailed, match="cannot be used by this process any more: CUDA error: unspecified launch"):
        give_memory_back()


def test_nothing_is_forked_after_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "usable_processors", lambda: 4)
    monkeypatch.setattr(forking.threading, "enumerate", lambda: [])
    before = forking.may_fork()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert (before, forking.may_fork()) == (True, False)

"""Checkpoints: a training that is killed and continued has the result of an undisturbed one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.contract import Callback
from autocompress.data import DataInfo, Split, TensorSplit
from autocompress.training import Training, TrainSettings
from autocompress.training.checkpoint import Checkpoint

STEPS = 11
SETTINGS = TrainSettings(epochs=2.75, lr=3e-3, batch_size=16)


def split() -> Split:
    info = DataInfo(4, 1, (8, 8), (0.5,), (0.5,), tuple("abcd"))
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return TensorSplit(images, torch.arange(64) % 4, info)


def network() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 36, 4)]
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head)


class Counting(Callback):
    """Counts steps, trains the head with another optimizer, and kills the process at a step."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.count, self.killed_at = 0, killed_at

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model[-1].parameters()), "optimizer": "sgd", "clip": False}]  # type: ignore[index]

    def before_step(self, model: nn.Module, step: int) -> None:
        if step == self.killed_at:
            raise KeyboardInterrupt
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


def trained(file: Path | None, every: int = 1, killed_at: int | None = None) -> tuple[nn.Module, Training, Counting]:
    """A training with a checkpoint every few steps, which is killed at step ``killed_at``."""
    ticks = iter(range(10_000))
    checkpoint = None if file is None else Checkpoint(file, float(every), lambda: float(next(ticks)))
    model, callback = network(), Counting(killed_at)
    training = Training(model, split(), SETTINGS, callbacks=[callback], seed=3, checkpoint=checkpoint)
    if killed_at is None:
        training.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            training.run()
    return model, training, callback


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, torch.Tensor]:
    return trained(None)[0].state_dict()


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(killed_at=st.integers(0, STEPS - 1), every=st.integers(1, 6), again=st.integers(0, STEPS))
def test_a_killed_training_gives_the_same_model(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], killed_at: int, every: int, again: int
) -> None:
    file = tmp_path / "one.safetensors"
    file.unlink(missing_ok=True)
    trained(file, every, killed_at)
    if killed_at < again < STEPS:
        trained(file, every, again)
    model, training, callback = trained(file, every)
    assert training.step == STEPS
    assert callback.count == STEPS
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, undisturbed[name]), name


def test_it_continues_from_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    trained(file, every=1, killed_at=6)
    model, training = network(), None
    training = Training(model, split(), SETTINGS, callbacks=[Counting()], seed=3, checkpoint=Checkpoint(file))
    assert training.run().steps == STEPS - 6
    Checkpoint(file).drop()
    assert not file.exists()
    Checkpoint(file).drop()


def test_a_short_training_leaves_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    trained(file, every=1000)
    assert not file.exists()


@pytest.mark.parametrize("damage", ["cut short", "another network", "no record"])
def test_an_unusable_checkpoint_is_ignored(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "one.safetensors"
    trained(file, every=1, killed_at=5)
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "no record":
        save_file({"0": torch.zeros(1)}, file, {"other": "{}"})
    else:
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        training = Training(other, split(), SETTINGS, seed=3, checkpoint=Checkpoint(file, 0.0))
        training.run()
    model, training, _ = trained(file, every=1000)
    assert training.step == STEPS
    assert "begins again" in caplog.text
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, undisturbed[name]), name


def test_there_is_a_minimum_of_steps() -> None:
    few = TrainSettings(epochs=1, batch_size=16, least_steps=9)
    assert Training(network(), split(), few).total_steps == 9
    many = TrainSettings(epochs=3, batch_size=16, least_steps=9)
    assert Training(network(), split(), many).total_steps == 12
    assert Training(network(), split(), few).run().steps == 9

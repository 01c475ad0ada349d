"""The trainer.

It learns, is repeated with its seed, can pause, and follows contract/callback.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparing import same
from torch import nn
from torch.optim import Optimizer

from autocompress import data
from autocompress.compute import Compute
from autocompress.contract import Callback
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.errors import TrialFailed
from autocompress.job import load_job
from autocompress.training import SoftTargets, Training, TrainSettings, evaluate, recalibrate_batch_norm, train


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Uses one thread, because more are slower for networks of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return data.load(load_job(model="resnet10t", data="digits", name="test").data)


@pytest.fixture(scope="module")
def few(splits: Splits) -> data.Split:
    return splits.train.subset(128)


def network(seed: int = 0) -> nn.Module:
    """A small convolutional network with batch norm and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32 * 16, 10),
    )


FAST = TrainSettings(epochs=2, batch_size=32, lr=3e-3)


@pytest.mark.parametrize("settings", [FAST, TrainSettings(3, 0.1, "sgd", "cosine", 32, 5e-4, label_smoothing=0.1)])
def test_the_network_learns(splits: Splits, settings: TrainSettings) -> None:
    model = network()
    result = train(model, splits.train, settings, seed=0)
    accuracy, correct = evaluate(model, splits.val)
    assert result.steps == settings.epochs * 33
    assert result.seconds > 0
    assert accuracy > 85
    assert correct.dtype == np.bool_
    assert correct.shape == (360,)
    assert accuracy == pytest.approx(100 * correct.mean())


def test_the_result_depends_on_the_seed(few: data.Split) -> None:
    first, again, other = network(), network(), network()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        before = torch.get_rng_state()
        train(model, few, FAST, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
    assert same(first, again)
    assert not same(first, other)


class Recorder(Callback):
    """Records its calls, and has a parameter group with the first convolution."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rates: list[float] = []
        self.decays: list[float] = []
        self.total = 0

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": [model[0].weight], "weight_decay": 0.0, "lr_scale": 0.5}]  # type: ignore[index]

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        self.calls.append("start")
        self.total = total_steps

    def before_step(self, model: nn.Module, step: int) -> None:
        self.calls.append(f"before {step}")

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        self.calls.append(f"backward {step}")
        self.rates.append(optimizer.param_groups[0]["lr"] / optimizer.param_groups[1]["lr"])
        self.decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert all(parameter.grad is not None for parameter in model.parameters())

    def on_epoch_end(self, model: nn.Module, epoch: int) -> None:
        self.calls.append(f"epoch {epoch}")

    def on_end(self, model: nn.Module) -> None:
        self.calls.append("end")

    def state_dict(self) -> dict[str, Any]:
        return {"calls": list(self.calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = list(state["calls"])


def test_callbacks_are_called_as_the_contract_says(few: data.Split) -> None:
    recorder = Recorder()
    train(network(), few, TrainSettings(epochs=2, batch_size=64), callbacks=[recorder])
    assert recorder.total == 4
    assert recorder.calls == [
        "start",
        *("before 0", "backward 0", "before 1", "backward 1", "epoch 0"),
        *("before 2", "backward 2", "before 3", "backward 3", "epoch 1"),
        "end",
    ]
    assert recorder.rates == pytest.approx([0.5] * 4)
    assert recorder.decays == [0.0, 0.05, 0.0]  # those of the callback, of weights, and of biases and norms


class Zeroing(Callback):
    """Sets all gradients to zero after the backward pass and before the step."""

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()


def test_gradients_may_be_changed_before_the_step(few: data.Split) -> None:
    model = network()
    before = copy.deepcopy(model[0].weight.data)  # type: ignore[index]
    train(model, few, TrainSettings(epochs=1, weight_decay=0.0), callbacks=[Zeroing()])
    assert torch.equal(before, model[0].weight.data)  # type: ignore[index]


class Scaling(Callback):
    """Makes gradients huge. SGD only works with clipping after it."""

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(1e6)


def test_clipping_comes_after_callbacks(few: data.Split) -> None:
    settings = TrainSettings(epochs=1, lr=0.01, optimizer="sgd", weight_decay=0.0, batch_size=128, clip=1.0)
    model = network()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    train(model, few, settings, callbacks=[Scaling()])
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert 0 < moved.norm() <= 0.01 * 1.9 * 1.01  # one Nesterov step with a gradient of norm 1


class Imitating(Callback):
    """An extra loss: the features of the student should be those of the teacher."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def taps(self) -> list[str]:
        return ["4"]

    def loss(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss = 10 * F.mse_loss(student["4"], teacher["4"])
        self.losses.append(float(loss.detach()))
        return loss


def test_tapped_features_give_an_extra_loss(few: data.Split) -> None:
    callback, student, teacher = Imitating(), network(0), network(1)
    train(
        student,
        few,
        TrainSettings(epochs=8, batch_size=32, lr=5e-3, augment=False),
        teacher=teacher,
        callbacks=[callback],
    )
    assert callback.losses[-1] < 0.7 * callback.losses[0]
    assert not student[4]._forward_hooks  # type: ignore[index]
    assert not teacher[4]._forward_hooks  # type: ignore[index]


class Staring(Callback):
    def taps(self) -> list[str]:
        return ["nowhere"]


def test_an_unknown_tap_is_an_error(few: data.Split) -> None:
    with pytest.raises(ValueError, match="'nowhere'"):
        train(network(), few, FAST, callbacks=[Staring()])


def test_a_pause_does_not_change_the_result(few: data.Split) -> None:
    """Stopped after an epoch, stored, and continued in fresh objects.

    The same weights as without the stop.
    """
    settings = TrainSettings(epochs=3, batch_size=32)
    whole, parts, recorder = network(), network(), Recorder()
    train(whole, few, settings, seed=5, callbacks=[recorder])

    first = Training(parts, few, settings, seed=5, callbacks=[Recorder()])
    assert first.run(until=2).steps == 8
    assert not first.finished
    assert (first.epoch, first.step) == (2, 8)
    stored, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(parts.state_dict())

    torch.rand(7)
    fresh, resumed = network(9), Recorder()
    fresh.load_state_dict(weights)
    second = Training(fresh, few, settings, seed=5, callbacks=[resumed])
    second.load_state_dict(stored)
    assert second.run().steps == 4
    assert second.finished
    assert same(whole, fresh)
    assert resumed.calls == recorder.calls


def test_distillation_follows_the_teacher(splits: Splits) -> None:
    """The teacher permutes the labels.

    With weight 1, the student learns its outputs and not the labels.
    """
    few = splits.train.subset(512)
    permuted = few.relabelled((few.labels() + 3) % 10)
    teacher = network(1)
    train(teacher, permuted, FAST)
    student = network(2)
    settings = TrainSettings(epochs=3, batch_size=32, lr=3e-3, distill=1.0)
    train(student, few, settings, teacher=teacher)
    assert evaluate(student, splits.val.relabelled((splits.val.labels() + 3) % 10))[0] > 60
    assert evaluate(student, splits.val)[0] < 20
    assert not teacher.training


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_stored_targets_replace_a_teacher(splits: Splits, kind: str) -> None:
    few = splits.train.subset(512)
    values = 8.0 * F.one_hot((few.labels() + 3) % 10, 10).float()
    targets = SoftTargets(values) if kind == "logits" else SoftTargets(F.softmax(values / 2, 1), temperature=2.0)
    meaningless = few.relabelled(torch.zeros(512, dtype=torch.int64))
    student = network()
    train(student, meaningless, TrainSettings(3, 3e-3, batch_size=32), soft_targets=targets, labelled=False)
    assert evaluate(student, splits.val.relabelled((splits.val.labels() + 3) % 10))[0] > 60


def test_without_labels_a_teacher_or_targets_are_needed(few: data.Split) -> None:
    with pytest.raises(ValueError, match="teacher or soft targets"):
        train(network(), few, FAST, labelled=False)


def test_distillation_loss_by_hand() -> None:
    from autocompress.training import answers_of, distillation

    student, teacher, labels = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 1.5]]), torch.tensor([1])
    t, s = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    divergence = 4 * float((t * (t.log() - s.log())).sum())
    cross_entropy = -float(torch.log_softmax(student, 1)[0, 1])
    mixed = distillation(student, labels, answers_of(teacher, 2.0), weight=0.25)
    assert float(mixed) == pytest.approx(0.75 * cross_entropy + 0.25 * divergence, rel=1e-5)
    assert float(distillation(student, labels, None, weight=0.25)) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(distillation(student, None, answers_of(teacher, 2.0), weight=0.25)) == pytest.approx(
        divergence, rel=1e-5
    )


def test_frozen_batch_norm_keeps_its_statistics(few: data.Split) -> None:
    model = network()
    mean, weight = model[1].running_mean.clone(), model[1].weight.detach().clone()  # type: ignore[index,operator,union-attr]
    train(model, few, FAST, freeze_batch_norm=True)
    assert torch.equal(mean, model[1].running_mean)  # type: ignore[index,arg-type]
    assert not torch.equal(weight, model[1].weight)  # type: ignore[index,arg-type]


def test_a_nan_loss_fails_the_trial(few: data.Split) -> None:
    model = network()
    with torch.no_grad():
        model[8].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(TrialFailed, match="loss is nan at step 0"):
        train(model, few, FAST)


def test_pause_and_progress_are_called_between_batches(few: data.Split) -> None:
    pauses: list[int] = []
    seen: list[tuple[float, str]] = []
    train(
        network(),
        few,
        FAST,
        pause=lambda: pauses.append(1),
        progress=lambda done, text: seen.append((done, text)),
    )
    assert len(pauses) == 8
    assert [done for done, _ in seen] == pytest.approx([(k + 1) / 8 for k in range(8)])
    assert seen[-1][1] == "epoch 2"


def test_epochs_may_be_a_fraction_or_zero(few: data.Split) -> None:
    assert train(network(), few, TrainSettings(epochs=1.5, batch_size=32)).steps == 6
    untouched = network()
    assert train(untouched, few, TrainSettings(epochs=0)).steps == 0
    assert same(untouched, network())


def test_evaluate_does_not_change_the_mode(few: data.Split) -> None:
    model = network().train()
    model[1].eval()  # type: ignore[index,operator]
    first, _ = evaluate(model, few)
    assert evaluate(model, few)[0] == first  # without dropout
    assert model.training
    assert not model[1].training  # type: ignore[index]


def test_recalibration_gives_the_statistics_of_the_images() -> None:
    info = DataInfo(2, 1, (8, 8), (0.5,), (0.5,), ("a", "b"))
    images = 3 + 2 * torch.randn(256, 1, 8, 8)
    split = TensorSplit(images, torch.zeros(256, dtype=torch.int64), info)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2)).eval()
    assert recalibrate_batch_norm(model, split, images=256, batch_size=64) == 256
    norm: Any = model[0]
    assert float(norm.running_mean) == pytest.approx(float(images.mean()), abs=1e-4)
    assert float(norm.running_var) == pytest.approx(float(images.var()), rel=0.01)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())
    assert recalibrate_batch_norm(nn.Linear(2, 2), split) == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_learns_on_cuda(splits: Splits) -> None:
    model, recorder = network(), Recorder()
    train(
        model,
        splits.train,
        TrainSettings(3, 3e-3, batch_size=32),
        compute=replace(Compute.on("cuda"), channels_last=True),
        callbacks=[recorder],
    )
    assert evaluate(model, splits.val)[0] > 85

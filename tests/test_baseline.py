"""A baseline must pass the checks of a candidate. A baseline that fails is not stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_teacher import TinyNet, described
from torch import nn
from torch.nn import functional as F

from autocompress import models
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.errors import UserError
from autocompress.job import Job, load_job
from autocompress.opened import remarks
from autocompress.opened.baseline import Baseline, measure_baseline
from autocompress.opened.job import OpenedJob
from autocompress.scoring import Scorer
from autocompress.store import Store
from autocompress.training import trainer

GREY = DataInfo(10, 1, (32, 32), (0.3,), (0.2,), tuple("0123456789"))
NAN, INF = float("nan"), float("inf")


def job(model: str = "test_resnet", **settings: Any) -> Job:
    return load_job(model=model, data="digits", name="test", **settings)


def checkpoint(folder: Path, change: Callable[[dict[str, torch.Tensor]], object] = len) -> Path:
    state = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    change(state)
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "value", "fault"),
    [
        ("conv1.0.weight", NAN, "holds NaN"),
        ("fc.bias", INF, "holds infinite values"),
        ("bn1.running_mean", -INF, "holds infinite values"),
        ("bn1.running_var", NAN, "holds NaN"),
        ("bn1.running_var", -0.01, "is a variance and holds values below 0"),
    ],
)
def test_nan_and_infinite_weights_are_named(tmp_path: Path, tensor: str, value: float, fault: str) -> None:
    path = checkpoint(tmp_path, lambda state: state[tensor].view(-1)[:1].fill_(value))
    with pytest.raises(UserError, match=rf"weights.safetensors: '{tensor}' {fault}"):
        models.create(job(checkpoint=path), GREY)


def test_weights_that_overflow_in_half_precision_are_found(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=10, in_chans=1).double().state_dict()
    state["fc.weight"][0, 0] = 1e300
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"'fc.weight' holds infinite values"):
        models.create(job(checkpoint=tmp_path / "weights.safetensors"), GREY)


def test_finite_weights_with_infinite_logits_are_refused(tmp_path: Path) -> None:
    def grow(state: dict[str, torch.Tensor]) -> None:
        state["fc.weight"].fill_(3e38)

    with pytest.raises(UserError, match="'test_resnet' with these weights outputs logits that are not finite numbers"):
        models.create(job(checkpoint=checkpoint(tmp_path, grow)), GREY)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "args", "size", "message"),
    [
        ("test_vit", {}, 33, r"'test_vit' cannot take images of 33 x 33 pixels and 1 channel: .*divisible by"),
        ("inception_v3", {}, 32, r"'inception_v3' cannot take images of 32 x 32 pixels"),
        ("inception_v3", {"aux_logits": True}, 96, r"'inception_v3' .*"),
        ("test_resnet", {"global_pool": ""}, 32, r"gives a tensor \(2, 10, 1, 1\)|'test_resnet' .*"),
        ("test_vit", {"global_pool": ""}, 32, r"gives a tensor \(2, 5, 10\) for 2 images where one tensor of logits"),
        ("test_resnet", {"features_only": True}, 32, r"'test_resnet' .*"),
        ("test_resnet", {"drop_rate": 1.5}, 32, r"'test_resnet' .*"),
        ("test_resnet", {"layers": "many"}, 32, r"timm cannot create 'test_resnet' with model_args "),
        ("test_resnet", {"act_layer": "no such layer"}, 32, r"timm cannot create 'test_resnet' with model_args "),
        ("test_resnet", {"colour": 1}, 32, r"timm cannot create 'test_resnet' with model_args .*colour"),
        ("test_resnet", {"pretrained": True}, 32, r"'model_args.pretrained' is not an argument of a network"),
        ("test_resnet", {"checkpoint_path": "x"}, 32, r"'model_args.checkpoint_path' is not an argument of a network"),
        ("test_resnet", {"num_classes": 3}, 32, r"'model_args.num_classes' is 3, but the data have 10 classes"),
    ],
)
def test_an_unsuitable_network_is_refused_at_once(model: str, args: dict[str, Any], size: int, message: str) -> None:
    info = DataInfo(10, 1, (size, size), (0.3,), (0.2,), GREY.class_names)
    with pytest.raises(UserError, match=message) as raised:
        models.create(job(model, model_args=args), info)
    assert "\n" not in str(raised.value)


def test_the_trial_pass_does_not_change_the_network(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    before = torch.get_rng_state()
    model = models.create(job(checkpoint=path), GREY)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    fresh = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in fresh.named_buffers())


# --- training -------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Splits:
    images = torch.randint(0, 256, (32, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(images, torch.arange(32) % 10, GREY)
    return Splits(split, split, split, GREY)


@pytest.mark.parametrize(
    ("lr", "epochs", "message"),
    [
        (1e6, 4, r"the training of the baseline 'test_resnet' diverged: "),
        (1e38, 1, r"the training of the baseline 'test_resnet' diverged: .*"),
    ],
)
def test_a_baseline_that_diverged_is_not_stored(
    small: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float, epochs: int, message: str
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    own = job(baseline={"epochs": epochs, "lr": lr, "batch_size": 32})
    with pytest.raises(UserError, match=rf"{message}.*\(lower 'baseline.lr', which is 1e\+"):
        trainer.train_baseline(own, models.create(own, GREY), small)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize(("lr", "epochs"), [(100.0, 1), (100.0, 2), (10.0, 2)])
def test_a_baseline_that_diverged_with_finite_weights_is_not_stored(
    small: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float, epochs: int
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    own = job(baseline={"epochs": epochs, "lr": lr, "batch_size": 32})
    with pytest.raises(UserError, match=r"diverged: its loss on training images went from 2\.\d+ to ") as raised:
        trainer.train_baseline(own, models.create(own, GREY), small)
    assert f"'baseline.lr', which is {lr:g}, or raise 'baseline.epochs', which is {epochs})" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_baseline_that_learned_little_is_stored(
    small: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, epochs: int
) -> None:
    """The labels are random and batches have eight images, so the loss hardly falls."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    args = {"img_size": 32} if model == "test_vit" else {}
    own = job(model, model_args=args, baseline={"epochs": epochs, "batch_size": 8})
    trainer.train_baseline(own, models.create(own, GREY), small)
    assert [file.suffix for file in (tmp_path / "baselines").iterdir()] == [".safetensors"]


def test_a_stored_baseline_that_fails_the_checks_is_trained_again(
    small: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    own = job(baseline={"epochs": 1, "batch_size": 32})
    first = trainer.train_baseline(own, models.create(own, GREY), small).state_dict()
    (file,) = (tmp_path / "baselines").iterdir()
    save_file({name: torch.full_like(tensor, -1) for name, tensor in first.items()}, file)
    again = trainer.train_baseline(own, models.create(own, GREY), small).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


# --- measuring ------------------------------------------------------------------------------------


class Rooted(TinyNet):
    """Gives NaN for dark images only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (x.mean((1, 2, 3)) + 0.5).sqrt().unsqueeze(1)


class Untranslatable(TinyNet):
    """Its graph depends on the values of its images, so it cannot be exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if float(x.mean()) > -1e9 else x


class Filters(nn.Module):
    """Has a group of filters for each image, and the file needs a fixed number of groups."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        twice, (height, width) = torch.cat([x, x], 1), x.shape[2:]
        filters = twice.mean((2, 3))[..., None, None]
        made = F.conv2d(twice.reshape(1, -1, height, width), filters, groups=x.shape[0])
        return made.reshape(-1, 1, height, width)


class OneFilterAnImage(TinyNet):
    """Has such a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Filters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.first(x))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Rooted, "the baseline cannot be compressed: the model's outputs are not finite numbers"),
        (Untranslatable, "the baseline cannot be written as an ONNX file: "),
        (OneFilterAnImage, r"an ONNX file: 'first' \(Filters\) has no ONNX form: .*aten\.conv2d"),
    ],
)
def test_a_baseline_passes_the_gates_of_a_candidate(
    small: Splits, tmp_path: Path, kind: type[nn.Module], message: str
) -> None:
    model = described(kind().eval(), GREY.input_size, 10)
    images = torch.full((80, 1, 32, 32), 200, dtype=torch.uint8)
    images[79] = 0  # the dark images are not among the first
    split = TensorSplit(images, torch.arange(80) % 10, GREY)
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=message):
        measure_baseline(model, Splits(split, split, split, GREY), Scorer(), store, tmp_path / "baselines")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_baseline_at_chance_gives_a_note(tmp_path: Path) -> None:
    opened = OpenedJob.open(job(checkpoint=checkpoint(tmp_path), methods=["quantize"]))
    (note,) = opened.splits.notes
    assert note.startswith("the baseline is at chance: it classifies ")


def test_a_small_set_gets_steps_and_smaller_batches() -> None:
    own = job().baseline
    assert (own.epochs, own.steps) == (12, 600)
    few, many = (trainer.baseline_settings(job(), images) for images in (2_000, 12_000))
    assert (few.least_steps, few.batch_size) == (600, 62)
    assert (many.least_steps, many.batch_size, many.epochs) == (0, 128, 12)
    assert trainer.baseline_settings(job(), 6_400) == many
    asked = trainer.baseline_settings(job(baseline={"epochs": 3}), 2_000)
    assert (asked.epochs, asked.least_steps, asked.batch_size) == (3, 0, 128), "the value of the job is used"
    both = trainer.baseline_settings(job(baseline={"epochs": 3, "steps": 100}), 100)
    assert (both.epochs, both.least_steps, both.batch_size) == (3, 100, 32)


@pytest.mark.parametrize(("percent", "is_told"), [(35.6, True), (97.0, False)])
def test_a_baseline_that_has_not_learned_its_training_images_gives_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percent: float, is_told: bool
) -> None:
    monkeypatch.setattr(remarks, "evaluate", lambda *_: (percent, None))
    images = torch.zeros((20, 1, 32, 32), dtype=torch.uint8)
    split = TensorSplit(images, torch.arange(20) % 10, GREY)
    model = described(TinyNet().eval(), GREY.input_size, 10)
    base = Baseline(60.0, np.ones(20, dtype=bool), 1, 1, 1, None, "key", "key")  # type: ignore[arg-type]
    asked = job(baseline={"epochs": 1})
    notes = remarks.remarks(asked, model, Splits(split, split, split, GREY), base, Store(tmp_path))
    text = "the baseline looks undertrained: it classifies 35.6 % of its training images correctly, and 60.0 % of the"
    assert [note.startswith(text) for note in notes] == [True] * is_told
    again = remarks.remarks(asked, model, Splits(split, split, split, GREY), base, Store(tmp_path))
    assert again == notes

"""Weights that were trained with another normalisation give a note, and others do not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_teacher import SIZE, TinyNet, described
from torch import nn
from typer.testing import CliRunner

from autocompress import data, models
from autocompress.cli import app
from autocompress.data import DataInfo, Split
from autocompress.data.digits import Digits
from autocompress.job import load_job
from autocompress.opened.job import OpenedJob
from autocompress.opened.normalisation import note_on_normalisation
from autocompress.store import Store
from autocompress.training import TrainSettings, train

INFO = DataInfo(10, 1, SIZE[1:], (0.3,), (0.35,), tuple("0123456789"))
COMMON = [((0.3057,), (0.3254,)), ((0.5,), (0.5,)), ((0.449,), (0.226,)), ((0.0,), (1.0,))]
KINDS: list[type[nn.Module]] = [nn.BatchNorm2d, nn.Identity]


def prepared(mean: tuple[float, ...], std: tuple[float, ...], part: str = "train") -> Split:
    found: Split = getattr(Digits().load("digits"), part)
    return found.prepared(replace(INFO, mean=mean, std=std))


@cache
def trained(norm: type[nn.Module], mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """A small network, trained with this normalisation and with augmentation."""
    torch.manual_seed(0)
    model = TinyNet(norm=norm)
    train(model, prepared(mean, std), TrainSettings(epochs=6, lr=5e-3, batch_size=32), device="cpu")
    return described(model.eval(), SIZE, 10)


def note(model: nn.Module, split: Split, folder: Path) -> str:
    return note_on_normalisation(model, split, 100_000, Store(folder), "model")


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("own", [COMMON[0], COMMON[2]])
def test_the_right_normalisation_gives_no_note(
    tmp_path: Path, norm: type[nn.Module], own: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    assert note(trained(norm, *own), prepared(*own), tmp_path) == ""


# Without batch norm, timm's default costs this network too few points for a clear decision.
@pytest.mark.parametrize(
    ("norm", "given"),
    [*((nn.BatchNorm2d, given) for given in COMMON[1:]), (nn.Identity, COMMON[1]), (nn.Identity, COMMON[3])],
)
def test_a_wrong_normalisation_gives_a_note_with_the_right_key(
    tmp_path: Path, norm: type[nn.Module], given: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    model = trained(norm, *COMMON[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = note(model, prepared(*given), tmp_path)
    assert "with the mean and std of these images they classify" in told
    assert "set model_args: {mean: [0.30" in told
    assert (
        note(nn.Identity(), prepared(*given), tmp_path) == told
    )  # the result is stored, so the model is not run again
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_untrained_weights_give_no_note(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for norm in KINDS:
        model = described(TinyNet(norm=norm).eval(), SIZE, 10)
        for number, given in enumerate(COMMON):
            assert note(model, prepared(*given), tmp_path / f"{norm.__name__}{number}") == ""


def test_frozen_statistics_of_other_data_give_no_note(tmp_path: Path) -> None:
    """The batch norms have statistics of other images, and the weights were trained with them."""
    torch.manual_seed(0)
    model = TinyNet()
    with torch.no_grad():
        for images, _ in prepared((0.3057,), (0.3254,)).loader(64):
            model(images)
    own = (0.449,), (0.226,)
    train(model, prepared(*own), TrainSettings(6, 5e-3, batch_size=32), device="cpu", freeze_batch_norm=True)
    assert note(described(model.eval(), SIZE, 10), prepared(*own), tmp_path) == ""


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return str(done.output)


@pytest.mark.slow
def test_a_search_and_similarity_show_the_note(tmp_path: Path) -> None:
    job = load_job(model="test_resnet", data="digits", name="test", methods=["quantize"])
    splits = data.load(job.data, **models.preprocessing(job))
    model = models.create(job, splits.info)
    train(model, splits.train, TrainSettings(6, 5e-3, batch_size=32), device="cpu")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    (told,) = OpenedJob.open(job.model_copy(update={"checkpoint": tmp_path / "mine.safetensors"})).splits.notes
    assert "another normalisation" in told
    assert "model_args: {mean: [0.30" in told
    right = {"mean": list(splits.info.mean), "std": list(splits.info.std)}
    asked = [
        "similarity",
        "--model",
        "test_resnet",
        "--checkpoint",
        str(tmp_path / "mine.safetensors"),
        "--images",
        "99",
    ]
    assert "note: the weights were probably trained with another normalisation" in said(*asked, "digits")
    both = {"checkpoint": tmp_path / "mine.safetensors", "model_args": right}
    assert OpenedJob.open(job.model_copy(update=both)).splits.notes == ()

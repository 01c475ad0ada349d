"""Bad input to quantization: a clear reason, and a failed trial in a search."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.compression import quantize as quantize_stage
from autocompress.contract import Context, Manager, Space, TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.devices.lock import MachineLock
from autocompress.errors import InvalidRecipe, TrialFailed, UserError
from autocompress.export import TapCrop
from autocompress.job import DataConfig, Job
from autocompress.opened.applicable import applicable
from autocompress.opened.job import OpenedJob
from autocompress.quantization import LayerBits
from autocompress.recipes.choosers import Policy
from autocompress.recipes.recipe import Recipe
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress_quantize import Quantize

SIZE = (3, 8, 8)
JOB = Job(model="resnet18", data=DataConfig(train="digits"), name="test")
METHODS = {"quantize": Manager().method("quantize")}


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()


def quantize(model: nn.Module, images: torch.Tensor, bits: int = 8, **params: Any) -> nn.Module:
    """The stage QUANTIZE on normalised ``images``."""
    defaults = Quantize().search_space(Space(Policy({}, "default")), model)
    recipe = Recipe(values={}, quantizers={"quantize": {**defaults, **params}})
    info = DataInfo(4, 3, (8, 8), (0.5,) * 3, (0.5,) * 3, ("a", "b", "c", "d"))
    split = TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), info)
    context = Context(input_size=SIZE, transfer=TransferSet(split, split, "toy"), teacher=model)
    layers = {str(index): LayerBits("quantize", bits, bits, group="all") for index in (0, 3)}
    return quantize_stage.quantize(model, layers, recipe, METHODS, context)[0]


def test_good_input_passes() -> None:
    assert quantize(small(), torch.randn(8, *SIZE))(torch.randn(1, *SIZE)).isfinite().all()


def test_a_training_whose_last_step_ends_in_nan_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(network: nn.Module, *_args: Any, **_more: Any) -> None:
        next(iter(network.parameters())).data.fill_(math.nan)

    monkeypatch.setattr(quantize_stage, "trained", lambda _recipe: True)
    monkeypatch.setattr(quantize_stage.qat, "run", diverge)
    with pytest.raises(TrialFailed, match="holds NaN after the training in low bits"):
        quantize(small(), torch.randn(8, *SIZE))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(0, *SIZE), "the calibration set holds no images"),
        (torch.full((70, *SIZE), 0.3), "all calibration images have one and the same colour"),
        (torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1).expand(70, *SIZE), "one and the same colour"),
        (torch.randn(4, *SIZE).index_fill(0, torch.tensor([1]), math.nan), "the values of 'input_1' are not finite"),
        (torch.randn(4, *SIZE).index_fill(0, torch.tensor([1]), math.inf), "the values of 'input_1' are not finite"),
    ],
    ids=["empty", "grey", "one colour", "nan", "inf"],
)
def test_calibration_images_without_a_range(images: torch.Tensor, reason: str) -> None:
    with pytest.raises(TrialFailed, match=reason):
        quantize(small(), images.contiguous())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("estimator", ["minmax", "mse"])
@pytest.mark.parametrize("equalise", [False, True])
def test_nan_weights(value: float, estimator: str, equalise: bool) -> None:
    model = small()
    model[3].weight.data[1, 1, 0, 0] = value
    with pytest.raises(TrialFailed, match=r"the values of '3\.weight' are not finite"):
        quantize(model, torch.randn(8, *SIZE), weight_range=estimator, equalise=equalise)


@pytest.mark.parametrize("estimator", ["ema_minmax", "minmax", "percentile", "mse", "entropy"])
def test_activations_that_overflow(estimator: str) -> None:
    model = small()
    model[0].weight.data *= 1e30
    model[1].weight.data *= 1e30
    with pytest.raises(TrialFailed, match="are not finite"):
        quantize(model, torch.randn(8, *SIZE), activation_range=estimator)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_bits_outside_the_range(bits: int) -> None:
    with pytest.raises(InvalidRecipe, match=f"2 to 8 bits, not {bits}"):
        quantize(small(), torch.randn(8, *SIZE), bits)


def test_a_model_without_layers_is_refused_by_name() -> None:
    nothing = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    fit, refused = applicable([Quantize()], nothing, JOB)
    assert not fit
    assert refused == {"quantize": ["the model has no convolution and no linear layer"]}
    with pytest.raises(UserError, match="'quantize' cannot apply to resnet18: the model has no convolution"):
        applicable([Quantize()], nothing, JOB, wanted=["quantize"])


class Wrong:
    """A real job whose files contain another network than its candidates."""

    def __init__(self, opened: OpenedJob) -> None:
        self.opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opened, name)

    def export(self, candidate: Any, file: Path) -> Any:
        class Rotated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = candidate.model

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x).roll(1, 1)

        return self.opened.export(replace(candidate, model=Rotated().eval(), crop=TapCrop()), file)


def test_a_file_that_differs_from_torch_is_a_failed_row(tmp_path: Path, opened: OpenedJob) -> None:
    measurer = Measurer.of(opened.job, opened.device)
    trial = Trial(Wrong(opened), measurer, MachineLock(tmp_path / "locks"), 0, tmp_path, baseline_row(opened, measurer))
    row = trial.run(dict(opened.starting_points())["uncompressed"])
    assert row["status"] == "failed"
    assert row["reason"].startswith("agreement: file and torch model give the same label to")

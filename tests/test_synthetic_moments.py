"""Moments on synthetic images, compared with recorded statistics of batch norms."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pruning_stage import pruned
from torch import nn

from autocompress.channels.known import known_couplings
from autocompress.compression.recorded import unlike
from autocompress.contract import Context, Plan
from autocompress.data import TensorSplit
from autocompress.graph import facts
from autocompress.repair import correction, gather, output_error, refit, rescaled, variance_ratios
from autocompress.testing import example_context, example_model
from autocompress.training import recalibrate_batch_norm
from autocompress_simple_pruners import Magnitude

SIZE = (3, 32, 32)


class Net(nn.Module):
    """A norm followed by a convolution that mixes two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.norm2 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.reader = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = x + self.reader(torch.relu(self.norm2(self.inner(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def data() -> torch.Tensor:
    return nn.functional.interpolate(torch.randn(96, 3, 8, 8), SIZE[1:], mode="bilinear") + 0.5


@pytest.fixture
def net(data: torch.Tensor) -> Net:
    """Its norms have recorded the statistics of ``data``."""
    found = Net()
    with torch.no_grad():
        for norm in (found.norm, found.norm2):
            norm.momentum = None
            norm.weight.uniform_(0.5, 1.5)
        found.train()(data)
    return found.eval()


def test_the_data_themselves_need_no_correction(net: Net, data: torch.Tensor) -> None:
    ratios = variance_ratios(net, ["norm", "norm2"], data.split(32))
    for ratio in ratios.values():
        torch.testing.assert_close(ratio, torch.ones(8, dtype=torch.float64), rtol=1e-2, atol=1e-2)
    every = known_couplings(net, SIZE, "group")
    assert unlike(net, facts(net, SIZE), every, lambda: data.split(32)) == {}


def test_images_with_less_contrast_are_reported(net: Net, data: torch.Tensor) -> None:
    faint = 0.5 + 0.25 * (data - 0.5)
    ratio = variance_ratios(net, ["norm"], [faint])["norm"]
    torch.testing.assert_close(ratio, torch.full((8,), 1 / 16, dtype=torch.float64), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(correction(ratio), torch.full((8,), 4.0, dtype=torch.float64), rtol=2e-2, atol=1e-3)
    found = unlike(net, facts(net, SIZE), known_couplings(net, SIZE, "group"), lambda: [faint])
    assert set(found) >= {"inner"}


@pytest.mark.parametrize(("ratio", "wanted"), [(1.9, 1.0), (0.51, 1.0), (4.0, 0.5), (0.25, 2.0), (0.0, 8.0)])
def test_only_factors_of_two_and_more_are_corrected(ratio: float, wanted: float) -> None:
    """The largest factor is 8, for inputs that are almost constant."""
    assert correction(torch.tensor([ratio], dtype=torch.float64)).tolist() == [pytest.approx(wanted)]


def test_a_norm_without_recorded_statistics_corrects_nothing(net: Net, data: torch.Tensor) -> None:
    net.norm.running_var[:3] = 0  # type: ignore[index]
    assert variance_ratios(net, ["norm"], [data])["norm"][:3].tolist() == [1, 1, 1]


@torch.no_grad()
def test_corrected_moments_are_those_of_the_data() -> None:
    """Some inputs are four times too small on the images. The refit is right on the data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8))
    true = torch.randn(400, 1, 6) @ torch.randn(6, 16) + 0.1 * torch.randn(400, 1, 16)
    wrong = torch.ones(16)
    wrong[:8] = 0.25
    of_data, of_images = (gather(net, ["0"], lambda x=x: [x])["0"] for x in (true, true * wrong))
    scale = correction((wrong.double() / 1).square())
    again = rescaled(of_images, scale)
    assert again.rescaled
    assert again.ridge == 10 * of_images.ridge
    torch.testing.assert_close(again.covariance, of_data.covariance, rtol=1e-4, atol=1e-4)
    matrix = of_data.columns.weight(net[0])
    kept = torch.ones((1, 16), dtype=torch.bool)
    kept[0, ::2] = False

    def error(moments: object, ridge: float) -> float:
        new, _ = refit(matrix, moments, kept, ridge)  # type: ignore[arg-type]
        centred = replace(of_data, mean=torch.zeros_like(of_data.mean))
        return float(output_error(matrix, new, torch.zeros(1, 8, dtype=torch.float64), centred).sum())

    assert error(again, 1e-2) < error(of_images, 1e-2)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, TensorSplit]:
    """A network whose norms have recorded statistics of these images."""
    model = example_model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
    context = example_context(model)
    assert context.transfer is not None
    own = context.transfer.train.batch(torch.arange(64))
    images = torch.cat([own, own.flip(-1)])[:96]
    split = TensorSplit(images, torch.arange(96) % 10, context.transfer.train.info)
    recalibrate_batch_norm(model, split)
    return model.eval(), split


@pytest.mark.parametrize("fit", ["one-shot", "sequential"])
@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_the_plan_counts_the_layers_with_other_inputs(
    fit: str, contrast: float, trained: tuple[nn.Module, TensorSplit]
) -> None:
    model, split = trained
    shown = TensorSplit(split.images * contrast, split.labels(), split.info)
    context: Context = example_context(model, teacher=copy.deepcopy(model))
    assert context.transfer is not None
    transfer = replace(context.transfer, train=shown, calibration=shown, digest=shown.digest, labelled=False)

    def plan(*, synthetic: bool) -> Plan:
        own = replace(context, transfer=replace(transfer, synthetic=synthetic))
        return pruned(model, Magnitude(), own, 0.5, repair={"fit": fit, "images": 64})[1][1]["plan"]

    told = plan(synthetic=True)
    assert (told["unlike"] > 0) == (contrast < 1)
    assert "unlike" not in plan(synthetic=False), "pictures need no correction"

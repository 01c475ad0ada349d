"""Folding a batch normalisation changes no output."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from autocompress.quantization import fold_batch_norm

NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def randomize(model: nn.Module) -> nn.Module:
    """Sets statistics as after a training, so that folding has an effect."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            module.running_mean = torch.randn(channels)
            module.running_var = torch.rand(channels) + 0.1
            if module.affine:
                module.weight.data, module.bias.data = torch.rand(channels) + 0.5, torch.randn(channels)
    return model.eval()


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 8]),
    bias=st.booleans(),
    affine=st.booleans(),
    inner_act=st.booleans(),
    kernel=st.sampled_from([1, 3]),
)
def test_folded_convolution_equals_convolution_and_norm(
    groups: int, bias: bool, affine: bool, inner_act: bool, kernel: int
) -> None:
    norm = BatchNormAct2d(16, affine=affine) if inner_act else nn.BatchNorm2d(16, affine=affine)
    model = randomize(nn.Sequential(nn.Conv2d(8, 16, kernel, groups=groups, bias=bias, padding=1), norm)).double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    folded = fold_batch_norm(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(module, NORMS) for module in folded.modules())


def test_a_convolution_with_two_readers_keeps_its_norm() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    model = randomize(Two())
    folded, x = fold_batch_norm(model), torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(folded(x), model(x))
    assert sum(isinstance(module, NORMS) for module in folded.modules()) == 1


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0", "densenet121", "regnety_002"])
def test_whole_networks(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name, num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected, got = model(x), fold_batch_norm(model)(x)
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_model_keeps_its_training_mode() -> None:
    model = timm.create_model("resnet10t", num_classes=10).train()
    assert not fold_batch_norm(model).training
    assert all(module.training for module in model.modules())

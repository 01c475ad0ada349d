"""Trainings from random weights start with residual branches of zeros."""

from __future__ import annotations

import timm
import torch
from torch import nn

from autocompress.models import silence_residual_branches


def test_the_last_norm_of_each_residual_branch_starts_at_zero() -> None:
    model = timm.create_model("mobilenetv2_050")
    changed = silence_residual_branches(model)
    blocks = [name for name, module in model.named_modules() if getattr(module, "has_skip", False)]
    assert changed == [f"{name}.bn3" for name in blocks]
    for name, parameter in model.named_parameters():
        is_silent = any(name == f"{norm}.weight" for norm in changed)
        assert bool(parameter.any()) != is_silent or name.endswith("bias"), name


def test_every_block_starts_as_its_shortcut() -> None:
    model = timm.create_model("mobilenetv2_050").eval()
    silence_residual_branches(model)
    block = next(module for module in model.modules() if getattr(module, "has_skip", False))
    x = torch.randn(2, block.conv_pw.in_channels, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_networks_that_start_so_already_are_not_changed() -> None:
    """timm's ResNets with projected shortcuts are examples. Their stored baselines stay valid."""
    for name in ("resnet18", "resnet10t", "resnet50"):
        model = timm.create_model(name)
        assert silence_residual_branches(model) == []
        projected = [m.get_submodule("1") for n, m in model.named_modules() if n.endswith("downsample") and len(m) == 2]  # type: ignore[arg-type]
        assert all(bool(norm.get_parameter("weight").any()) for norm in projected)


def test_a_norm_followed_by_an_activation_or_another_reader_is_not_the_end_of_a_branch() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.shared = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.shared(x)
            return torch.relu(self.norm(x)) + x + y * y + y

    block = Block()
    assert silence_residual_branches(block) == []
    assert bool(block.norm.weight.all())

"""What a rate takes from ResNet-50 and CIFAR's ResNet-56 by the official scheme (digest, section 7)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from autocompress.graph import facts
from autocompress_scop.couplings import couplings
from autocompress_scop.removal import remove

TARGETS = {"resnet50": (0.35, 42.8, 45.4), "cifar-resnet56": (0.45, 56.3, 56.1)}
"""Rate, and percent of the parameters and of the MACs that go."""
PRINTED = 0.05
"""The digest's figures have one decimal."""


class Basic(nn.Module):
    """A block of CIFAR's ResNet, its shortcut without parameters: every second pixel, zeros for new channels."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stride, self.fresh = width // inputs, width - inputs
        self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, 1, bias=False)
        self.bn1, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, inputs, H, W)`` -> ``(N, width, H / stride, W / stride)``."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.fresh // 2, self.fresh // 2))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + (shortcut if self.fresh else x))


class CifarResNet(nn.Module):
    """ResNet-20, -32, -56 ... for 32 x 32 pixels (He et al., CVPR 2016); timm has none."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        widths = [16] + [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Basic(inputs, width) for inputs, width in pairwise(widths)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to ten logits."""
        features: torch.Tensor = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.fc(features.mean((2, 3)))
        return logits


def run(names: Sequence[str] = tuple(TARGETS)) -> dict[str, Any]:
    """One row a network: every convolution behind the stem loses floor(rate * width) channels, shortcuts keep theirs.

    Args:
        names: of ``TARGETS``.
    """
    rows = [_row(name) for name in names]
    return {"rows": rows, "met": all(row["met"] for row in rows)}


def _row(name: str) -> dict[str, Any]:
    rate, params, macs = TARGETS[name]
    size = (3, 224, 224) if name == "resnet50" else (3, 32, 32)
    model = (timm.create_model(name) if name == "resnet50" else CifarResNet(56)).eval()
    every = couplings(model, size, "scatter", verify=False)  # the official code's way with shortcuts
    keep = {c.name: c.choose([0.0] * c.channels, rate) for c in every if c.prunable and not c.stem}
    small = facts(remove(copy.deepcopy(model), keep, size, "scatter", couplings=every), size)
    whole = facts(model, size)
    row: dict[str, Any] = {
        "model": name,
        "rate": rate,
        "params": whole.params,
        "macs": whole.macs,
        "params_cut": 100.0 * (1 - small.params / whole.params),
        "macs_cut": 100.0 * (1 - small.macs / whole.macs),
        "target": {"params_cut": params, "macs_cut": macs},
    }
    row["met"] = all(abs(row[key] - value) <= PRINTED for key, value in row["target"].items())
    return row


def lines(part: dict[str, Any]) -> list[str]:
    """The part for people."""
    return [
        f"{row['model']:<16} rate {row['rate']:.2f}  params -{row['params_cut']:.2f} % "
        f"(target {row['target']['params_cut']:.1f})  MACs -{row['macs_cut']:.2f} % "
        f"(target {row['target']['macs_cut']:.1f})  {'yes' if row['met'] else 'no'}"
        for row in part["rows"]
    ]

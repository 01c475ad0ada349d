"""ResNets for CIFAR, which timm does not have."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.data import DataInfo
from autocompress.models.architecture import describe


class Basic(nn.Module):
    """A block of a ResNet for CIFAR.

    Its shortcut has no parameters: it takes every second pixel, and fills new channels with zeros.
    """

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

    def __init__(self, depth: int, channels: int = 3) -> None:
        super().__init__()
        widths = [16] + [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
        self.conv1, self.bn1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Basic(inputs, width) for inputs, width in pairwise(widths)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to ten logits."""
        features: torch.Tensor = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.fc(features.mean((2, 3)))
        return logits


def cifar_resnet(depth: int, info: DataInfo, seed: int = 0) -> nn.Module:
    """A network for ten classes with random weights, with the attributes that ``models`` sets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CifarResNet(depth, info.channels)
    return describe(
        model,
        name=f"cifar-resnet{depth}",
        args={},
        input_size=info.input_size,
        mean=info.mean,
        std=info.std,
        num_classes=info.num_classes,
        class_names=info.class_names,
    ).eval()

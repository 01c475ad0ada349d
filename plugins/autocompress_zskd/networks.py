"""The paper's networks: LeNet-5, AlexNet for CIFAR-10, and students of half the width.

Importing this module registers them in timm as ``lenet5``, ``lenet5_half``, ``alexnet_cifar`` and
``alexnet_cifar_half``. Shapes are those of the paper and its official code. The order of activation
and normalisation, and the ReLU and max pooling of LeNet, are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

__all__ = ["LeNet5", "SmallAlexNet"]

SIZE = 32
"""Height and width of the images."""
LRN_ALPHA = 5e-4
"""The alpha of the official network, 1e-4 over five channels, for torch.

TensorFlow sums the squares, while torch divides alpha by the number of channels, so the same
function has 5 * 1e-4 here.
"""


def _check_size(size: int | Sequence[int]) -> None:
    if tuple(size if isinstance(size, Sequence) else (size, size)) != (SIZE, SIZE):
        raise ValueError(f"it reads {SIZE}x{SIZE} images only, not {size}")


class LeNet5(nn.Module):
    """Three 5x5 convolutions and two linear layers, with 61,706 parameters by default.

    Widths 3 and 8 give 35,820 parameters.

    Args:
        widths: channels of the first two convolutions (6, 16; half: 3, 8). The rest does not
            change.
        num_classes, in_chans, img_size: as in timm; there is one image size only.
    """

    def __init__(
        self,
        widths: Sequence[int] = (6, 16),
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | Sequence[int] = SIZE,
    ) -> None:
        super().__init__()
        _check_size(img_size)
        first, second = widths
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.conv3 = nn.Conv2d(second, 120, 5)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.ReLU()
        self.hidden = nn.Linear(120, 84)
        self.fc = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, 32, 32)`` -> logits ``(N, K)``."""
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x)))
        x = self.act(self.conv3(x)).flatten(1)
        return self.fc(self.act(self.hidden(x)))


class SmallAlexNet(nn.Module):
    """Five convolutions and three linear layers: 1,659,178 parameters, 417,434 in the half network.

    Each layer but the last has a batch norm. Local response normalisation follows the first two
    convolutions, overlapping max pooling the first, second and fifth.

    Args:
        widths: channels of the convolutions.
        hidden: width of the linear layers.
        num_classes, in_chans, img_size: as in timm; there is one image size only.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 128, 192, 192, 128),
        hidden: Sequence[int] = (512, 256),
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = SIZE,
    ) -> None:
        super().__init__()
        _check_size(img_size)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        before = in_chans
        for number, (width, kernel) in enumerate(zip(widths, (5, 5, 3, 3, 3), strict=True)):
            layers += [nn.Conv2d(before, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.LocalResponseNorm(5, alpha=LRN_ALPHA)] if number < 2 else []
            layers += [nn.MaxPool2d(3, 2)] if number in (0, 1, 4) else []
            before = width
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = []
        before = widths[-1] * 3 * 3
        for width in hidden:
            head += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
            before = width
        self.hidden = nn.Sequential(*head)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, 32, 32)`` -> logits ``(N, K)``."""
        return self.fc(self.hidden(self.features(x).flatten(1)))


def _cfg(channels: int, first_conv: str) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (channels, SIZE, SIZE),
        "fixed_input_size": True,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "first_conv": first_conv,
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {
        "lenet5": _cfg(1, "conv1"),
        "lenet5_half": _cfg(1, "conv1"),
        "alexnet_cifar": _cfg(3, "features.0"),
        "alexnet_cifar_half": _cfg(3, "features.0"),
    }
)


@register_model
def lenet5(pretrained: bool = False, **options: Any) -> LeNet5:
    """The teacher of the paper's MNIST and Fashion-MNIST tables."""
    return _make(LeNet5, "lenet5", pretrained, options)


@register_model
def lenet5_half(pretrained: bool = False, **options: Any) -> LeNet5:
    """The student of ``lenet5``, with half the width."""
    return _make(LeNet5, "lenet5_half", pretrained, {"widths": (3, 8), **options})


@register_model
def alexnet_cifar(pretrained: bool = False, **options: Any) -> SmallAlexNet:
    """The teacher of the paper's CIFAR-10 table."""
    return _make(SmallAlexNet, "alexnet_cifar", pretrained, options)


@register_model
def alexnet_cifar_half(pretrained: bool = False, **options: Any) -> SmallAlexNet:
    """The student of ``alexnet_cifar``, with half the width."""
    half = {"widths": (24, 64, 96, 96, 64), "hidden": (256, 128)}
    return _make(SmallAlexNet, "alexnet_cifar_half", pretrained, {**half, **options})


def _make(kind: type[nn.Module], name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    return build_model_with_cfg(kind, name, pretrained, **options)

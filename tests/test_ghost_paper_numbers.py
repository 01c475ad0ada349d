"""Sizes that the paper publishes.

VGG-16 and ResNet-56 on CIFAR-10, and GhostNet (checks 8 and 10).
"""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from autocompress.contract import Context, Space
from autocompress.graph import facts
from autocompress.recipes.choosers import Replay
from autocompress_ghost import Ghost

CIFAR = (3, 32, 32)


def cifar(model: nn.Module) -> nn.Module:
    model.pretrained_cfg = {"input_size": CIFAR, "num_classes": 10}  # type: ignore[assignment]
    return model.eval()


def vgg16() -> nn.Module:
    """VGG-16-BN with the head 512 -> 512 -> 10. Its convolutions have no bias."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    head = [nn.Flatten(), nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10)]
    return cifar(nn.Sequential(*layers, *head))


class Block(nn.Module):
    """A basic block whose shortcut has no parameters.

    It takes every second pixel, and fills channels with zeros.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.act2 = nn.ReLU()
        self.stride, self.missing = stride, outside - inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return self.act2(y + x)


def resnet56() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = []
    inside = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(9):
            blocks.append(Block(inside, width, stride if number == 0 else 1))
            inside = width
    return cifar(nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)))


def size(model: nn.Module, input_size: tuple[int, int, int] = CIFAR) -> tuple[float, float]:
    """Millions of parameters and of multiply-adds."""
    return sum(p.numel() for p in model.parameters()) / 1e6, facts(model, input_size).macs / 1e6


def ghosted(model: nn.Module, ratio: int, kernel: int = 3, input_size: tuple[int, int, int] = CIFAR) -> nn.Module:
    chooser = Replay({"ratio.model": ratio, "kernel": kernel, "variant": "bare", "init": "random"})
    method = Ghost()
    params = method.search_space(Space(chooser, "model"), model)
    return method.apply(model, params, Context(input_size=input_size, dry_run=True))[0]


def test_baselines() -> None:
    assert size(vgg16()) == pytest.approx((14.988, 313.46), rel=0.005)
    assert size(resnet56()) == pytest.approx((0.853, 125.49), rel=0.005)


@pytest.mark.parametrize(
    ("ratio", "params", "macs"), [(2, 7.652, 158.7), (3, 5.220, 108.0), (4, 3.984, 81.3), (5, 3.272, 66.6)]
)
def test_vgg16_by_ratio(ratio: int, params: float, macs: float) -> None:
    assert size(ghosted(vgg16(), ratio)) == pytest.approx((params, macs), rel=0.01)


@pytest.mark.parametrize(("kernel", "macs"), [(1, 157.9), (3, 158.7), (5, 160.4)])
def test_vgg16_by_cheap_kernel(kernel: int, macs: float) -> None:
    assert size(ghosted(vgg16(), 2, kernel))[1] == pytest.approx(macs, rel=0.01)


def test_resnet56() -> None:
    params, macs = size(ghosted(resnet56(), 2))
    assert 0.43 <= params <= 0.44
    assert 63 <= macs <= 67


@pytest.mark.parametrize(("ratio", "params", "macs", "printed"), [(2, 13.95, 2151.0, 2.2), (4, 8.15, 1181.9, 1.2)])
def test_ghost_resnet50(ratio: int, params: float, macs: float, printed: float) -> None:
    """The paper prints 13.0M and 6.5M parameters, which differ from its own formula.

    At s = 4 the convolutions alone have 5.9M and the classifier 2.0M. The printed multiply-adds,
    2.2G and 1.2G, agree.
    """
    model = timm.create_model("resnet50").eval()
    expected = of_formula(model, ratio)
    found = size(ghosted(model, ratio, input_size=(3, 64, 64)), (3, 224, 224))
    assert found[0] == pytest.approx(expected, rel=1e-3)
    assert found == pytest.approx((params, macs), rel=1e-3)
    assert round(found[1] / 1e3, 1) == printed


def of_formula(model: nn.Module, ratio: int) -> float:
    """Parameters in millions, with ghost modules for all convolutions but the first.

    n filters of c x k x k become m c k^2 + m (s - 1) 9 with m = n / s.
    """
    total = sum(p.numel() for p in model.parameters())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "conv1":
            assert layer.out_channels % ratio == 0
            m = layer.out_channels // ratio
            total += m * layer.weight[0].numel() + m * (ratio - 1) * 9 - layer.weight.numel()
    return total / 1e6


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("ghostnet_050", 2.6, 42), ("ghostnet_100", 5.2, 141.5), ("ghostnet_130", 7.3, 226)]
)
def test_ghostnet(name: str, params: float, macs: float) -> None:
    """timm's GhostNet has the modules of the paper, so it is an independent check of the counts."""
    assert size(timm.create_model(name).eval(), (3, 224, 224)) == pytest.approx((params, macs), rel=0.01)

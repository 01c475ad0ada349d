"""A small teacher with batch norms for making images; training it takes a second."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.data.digits import Digits
from autocompress.models.architecture import describe

SIZE = (1, 16, 16)


class TinyNet(nn.Module):
    """Two convolutions with batch norms and a classifier, for any channels and size."""

    def __init__(self, channels: int = 1, classes: int = 10, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 12, 3, padding=1), norm(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 24, 3, stride=2, padding=1), norm(24)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(24 * 16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = F.adaptive_avg_pool2d(self.bn2(self.conv2(x)).relu(), 4)
        return self.fc(self.drop(x.flatten(1)))


def described(model: nn.Module, size: tuple[int, int, int], classes: int) -> nn.Module:
    """``model`` with the attributes of a timm backbone in this project."""
    return describe(
        model,
        name="tiny",
        args={},
        input_size=size,
        mean=(0.3,) * size[0],
        std=(0.35,) * size[0],
        num_classes=classes,
        class_names=[f"class {number}" for number in range(classes)],
    )


def untrained(size: tuple[int, int, int] = SIZE, classes: int = 10, seed: int = 0) -> nn.Module:
    """A network with random weights, whose batch norms have recorded statistics of noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyNet(size[0], classes)
        model.train()(torch.randn(16, *size))
    return described(model.eval(), size, classes)


@cache
def digits_teacher() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A teacher of 16x16 digits, and 256 real images with labels.

    They are shared, so do not change them.
    """
    split = Digits().load("digits").train
    images = F.avg_pool2d(split.images.float() / 255, 2)  # type: ignore[attr-defined]
    images, labels = (images - 0.3) / 0.35, split.labels()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyNet().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(8):
            for chosen in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(model(images[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.zero_grad(set_to_none=True)
    return described(model.eval(), SIZE, 10), images[:256], labels[:256]

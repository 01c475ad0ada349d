"""Segmentation of synthetic shapes: a task, its network on a timm encoder, and a data set.

``job.yaml`` names this file twice: as a plugin, for the data set ``shapes``, and as a task.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from autocompress.contract import Task, hookimpl
from autocompress.data import DataInfo, DatasetProvider, Source, TensorSplit

CLASSES = ("background", "disc", "square")
SIZE = 32


class Segmentation(Task):
    """A class a pixel: targets int64 ``(N, H, W)``, outputs logits ``(N, classes, H, W)``."""

    metric_name: ClassVar[str] = "mean IoU"
    augments: ClassVar[bool] = False  # the engine would move the pixels, but not the targets

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Pixels in the intersection and in the union of each class, ``(N, 2 * classes)``."""
        classes = outputs.shape[1]
        ours, wanted = (F.one_hot(one, classes).bool() for one in (outputs.argmax(1), targets))
        return torch.cat([(ours & wanted).sum((1, 2)), (ours | wanted).sum((1, 2))], 1)

    def metric(self, marks: np.ndarray) -> float:
        """Mean intersection over union, of all pixels together."""
        both, either = np.split(marks.sum(0), 2)
        return 100.0 * float((both[either > 0] / either[either > 0]).mean())

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """KL divergence of the classes of a pixel, the mean over pixels."""
        expected, got = reference.log_softmax(1), outputs.log_softmax(1)
        return (expected.exp() * (expected - got)).sum(1).mean((1, 2))

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def augmented(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A mirrored batch half of the time."""
        mirrored = bool(torch.rand(1, generator=generator) < 0.5)
        return (images.flip(3), targets.flip(2)) if mirrored else (images, targets)

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        del classes
        return "" if targets.ndim == 3 else "needs a class for each pixel, and the data have other labels"

    def network(self, name: str, arguments: dict[str, Any], *, pretrained: bool) -> nn.Module:
        """An encoder of timm with a small decoder."""
        classes = arguments.pop("num_classes")
        encoder = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(1, 2, 3), **arguments)
        return Segmenter(encoder, classes)


class Segmenter(nn.Module):
    """Adds the maps of the encoder from the deepest up, each brought to the size of the next."""

    def __init__(self, encoder: nn.Module, classes: int, width: int = 32) -> None:
        super().__init__()
        self.encoder = encoder
        channels, steps = encoder.feature_info.channels(), encoder.feature_info.reduction()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.scales = [deep // fine for fine, deep in pairwise(steps)]
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Conv2d(width, classes, 1)
        self.last = steps[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = [layer(found) for layer, found in zip(self.lateral, self.encoder(images), strict=True)]
        found = maps[-1]
        for finer, scale in zip(reversed(maps[:-1]), reversed(self.scales), strict=True):
            found = finer + F.interpolate(found, scale_factor=scale, mode="nearest")
        return F.interpolate(self.classifier(self.smooth(found)), scale_factor=self.last, mode="bilinear")


class Shapes(DatasetProvider):
    """Grey images with a disc and a square on noise; a label is a map of classes."""

    name = "shapes"

    def load(self, spec: str) -> Source:
        del spec
        info = DataInfo(len(CLASSES), 1, (SIZE, SIZE), (0.4,), (0.25,), CLASSES)
        train, val, test = (drawn(count, seed, info) for seed, count in enumerate((480, 120, 120)))
        return Source(train, val, test, info)


def drawn(count: int, seed: int, info: DataInfo) -> TensorSplit:
    """``count`` images with their targets, int64 ``(count, SIZE, SIZE)``."""
    draw = np.random.default_rng(seed)
    images = draw.normal(90, 25, (count, SIZE, SIZE))
    targets = np.zeros((count, SIZE, SIZE), np.int64)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, target in zip(images, targets, strict=True):
        for label in (1, 2):
            y, x, side = *draw.integers(6, SIZE - 6, 2), draw.integers(4, 8)
            far = np.hypot(rows - y, columns - x) if label == 1 else np.maximum(abs(rows - y), abs(columns - x))
            image[far <= side] += draw.uniform(50, 110)
            target[far <= side] = label
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))[:, None]
    return TensorSplit(pixels, torch.from_numpy(targets), info)


@hookimpl
def autocompress_datasets() -> list[DatasetProvider]:
    return [Shapes()]

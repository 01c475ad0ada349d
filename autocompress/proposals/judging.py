"""The number of images for a cell of a table, so that all cells fit into the time for tables.

A pass of a ResNet-18 takes a millisecond per image of 32 pixels, and one of an EfficientNet takes
fifty times as long per image of 224 pixels. Few images are better than cells that are not measured
at all: losses are compared on the same images.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from autocompress import models
from autocompress.compute import warm_seconds
from autocompress.data import Split
from autocompress.graph import evaluating

LEAST_IMAGES = 32
PROBED = 8
"""Number of images in the timed pass. An untimed pass runs before it."""
OF_A_PASS = 0.6
"""A cell takes this share of the time of a pass through the whole network.

On average, half of the network runs again, and some layers are refitted.
"""
MOST_BATCH = 256
BATCH_PIXELS = MOST_BATCH * 64**2
"""Maximum number of pixels of a batch, because activations of larger images need more memory."""


def batch_size(split: Split) -> int:
    """Number of images in a batch."""
    _, height, width = split.input_size
    return max(1, min(MOST_BATCH, BATCH_PIXELS // (height * width)))


@torch.no_grad()
def affordable(
    model: nn.Module, split: Split, cells: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The number of images with which ``cells`` cells take at most ``seconds``.

    One pass of ``model`` is timed. The number is at least 32, or all images of ``split``.

    Args:
        model: the baseline, on the device that will be used.
        split: images for the cells.
        cells: number of cells.
        seconds: maximum seconds for all cells.
        clock: returns seconds.
    """
    device = models.device_of(model)
    images = next(iter(split.loader(min(PROBED, len(split)))))[0].to(device)
    with evaluating(model):
        each = OF_A_PASS * warm_seconds(lambda: model(images), device, clock) / len(images)
    most = int(seconds / max(each * cells, 1e-12))
    return min(max(LEAST_IMAGES, most), len(split))


def evenly(split: Split, count: int) -> Split:
    """``count`` images of ``split``, evenly spaced, since neighbours may have the same class."""
    if count >= len(split):
        return split
    return split.take(torch.linspace(0, len(split) - 1, count).round().long())

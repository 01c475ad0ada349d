"""Joins two transfer sets."""

from __future__ import annotations

from dataclasses import replace

import torch

from autocompress.contract import TransferSet
from autocompress.data import Split, TensorSplit
from autocompress.files import digest


def joined(first: TransferSet, second: TransferSet) -> TransferSet:
    """Both training splits together, with the calibration images of ``first``.

    Soft targets are kept if both sets have some, at one temperature.
    """
    info, images = first.train.info, torch.cat([images_of(first.train), images_of(second.train)])
    labels = torch.cat([first.train.labels(), second.train.labels()])
    train = TensorSplit(images, labels, info)
    soft = None
    if first.soft_targets is not None and second.soft_targets is not None and first.temperature == second.temperature:
        soft = torch.cat([first.soft_targets.cpu(), second.soft_targets.cpu()])
    demands = first.demands | second.demands
    return replace(first, train=train, soft_targets=soft, demands=demands, digest=digest(first.digest, second.digest))


def images_of(split: Split) -> torch.Tensor:
    """All images, float32 ``(N, C, H, W)``, normalised, on the CPU."""
    return torch.cat([images for images, _ in split.loader(256)]).cpu()

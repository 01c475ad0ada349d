"""Writes images as files, one folder per class, which any program can read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from autocompress.data import DataInfo
from autocompress.errors import UserError

LONGEST_NAME = 60
WRITABLE = (1, 3)
"""Numbers of channels of a PNG: grey and colour."""


def check_channels(channels: int) -> None:
    """Checks that images with ``channels`` channels can be written as PNG.

    Raises:
        UserError: if they cannot.
    """
    if channels not in WRITABLE:
        raise UserError(f"images of {channels} channels cannot be written as PNG", "images need 1 or 3 channels")


def as_bytes(images: torch.Tensor, info: DataInfo) -> torch.Tensor:
    """Normalised float images ``(N, C, H, W)`` as uint8 pixels, rounded and clipped."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (info.mean, info.std))
    return (images.detach().cpu().float() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A unique folder name for each class, valid on every system.

    Numbers are padded with zeros, because readers sort folders by name.
    """
    width = len(str(max(len(class_names) - 1, 0)))
    taken: set[str] = set()
    names = []
    for number, text in enumerate(class_names):
        name = re.sub(r"[^\w-]+", "-", text, flags=re.ASCII).strip("-_")[:LONGEST_NAME].strip("-_")
        name = name.zfill(width) if name.isdigit() else name
        name = name or f"class-{number:0{width}}"
        if name.casefold() in taken:
            name = f"{name}-{number:0{width}}"
        taken.add(name.casefold())
        names.append(name)
    return names


def write_images(pixels: torch.Tensor, labels: torch.Tensor, names: Sequence[str], folder: Path) -> None:
    """Writes each image as ``folder/<class>/<number>.png``; empty classes get no folder.

    Args:
        pixels: uint8 ``(N, C, H, W)`` of 1 or 3 channels.
        labels: int64 ``(N,)``, positions in ``names``.
        names: names of the class folders.
        folder: must exist. The caller must make writing atomic.

    Raises:
        UserError: for another number of channels.
    """
    check_channels(pixels.shape[1])
    width = len(str(max(len(pixels) - 1, 0)))
    for number, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        into = folder / names[label]
        into.mkdir(exist_ok=True)
        values = picture.permute(1, 2, 0).numpy()
        image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
        image.save(into / f"{number:0{width}}.png")

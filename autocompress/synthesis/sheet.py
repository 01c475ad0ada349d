"""A contact sheet: an overview of images as one picture."""

from __future__ import annotations

from pathlib import Path

import torch

from autocompress.data import DataInfo
from autocompress.files import atomic

INCHES = 1.1
"""Size of one image on the sheet."""


def contact_sheet(
    images: torch.Tensor,
    info: DataInfo,
    file: Path,
    columns: int = 8,
    labels: torch.Tensor | None = None,
) -> Path:
    """Writes a PNG of the images with the names of their classes, and returns ``file``.

    Args:
        images: float ``(N, C, H, W)``, normalised with ``info``. With two channels the first is
            shown in grey; with more than three, the first three.
        info: mean, std and class names.
        file: written atomically.
        columns: images per row.
        labels: int64 ``(N,)``.
    """
    from matplotlib.figure import Figure  # here, because importing takes most of a second

    pictures = displayable(images, info)
    columns = max(min(columns, len(images)), 1)
    rows = max(-(-len(images) // columns), 1)
    height = INCHES * (1.25 if labels is not None else 1.05)
    figure = Figure(figsize=(columns * INCHES, rows * height), layout="constrained")
    for number in range(rows * columns):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.axis("off")
        if number >= len(images):
            continue
        picture = pictures[number].permute(1, 2, 0).numpy()
        axes.imshow(picture.squeeze(2) if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        if labels is not None:
            axes.set_title(_name(info, int(labels[number])), fontsize=7, pad=2, parse_math=False)
    with atomic(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return file


def displayable(images: torch.Tensor, info: DataInfo) -> torch.Tensor:
    """Denormalised images with values from 0 to 1, float32 ``(N, 1 or 3, H, W)``."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (info.mean, info.std))
    pixels = (images.detach().cpu().float() * std + mean).clamp(0, 1)
    return pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]


def _name(info: DataInfo, label: int) -> str:
    return info.class_names[label] if label < len(info.class_names) else str(label)

"""Augmentation of image batches: small changes that leave characters readable."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ROTATION = 8.0
"""Largest rotation, degrees."""
SCALE = 0.12
"""Largest relative change of size."""
SHIFT = 0.08
"""Largest shift, as a share of the image."""
CONTRAST = 0.15
"""Largest relative change of contrast."""


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Randomly changes rotation, scale, position and contrast of images, float32 ``(N, C, H, W)``.

    Images are not flipped, because a mirrored character is a different one. Border pixels are
    repeated outwards, so no frame appears.
    """
    n = len(images)
    draw = torch.rand(n, 6, generator=generator) * 2 - 1
    angle = draw[:, 0] * math.radians(ROTATION)
    width, height = 1 + draw[:, 1] * SCALE, 1 + draw[:, 2] * SCALE
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * width, -angle.sin() * height, draw[:, 3] * 2 * SHIFT], 1),
            torch.stack([angle.sin() * width, angle.cos() * height, draw[:, 4] * 2 * SHIFT], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    centre = moved.mean((1, 2, 3), keepdim=True)
    return centre + (moved - centre) * (1 + draw[:, 5] * CONTRAST).view(-1, 1, 1, 1)

"""Brightness, contrast and saturation of one image as Pillow computes them, to the last bit."""

from __future__ import annotations

import numpy as np
from numba import njit

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2


@njit(cache=True, nogil=True)
def blended(low: int, high: int, share: np.float32) -> int:
    """Pillow's blend of two values. It is clipped to a byte if ``share`` is outside 0 to 1."""
    value = np.float32(low) + share * np.float32(high - low)
    if share >= 0 and share <= 1:
        return int(value)
    if value <= 0:
        return 0
    return 255 if value >= 255 else int(value)


@njit(cache=True, nogil=True)
def grey(red: int, green: int, blue: int) -> int:
    """Pillow's grey value of a colour."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@njit(cache=True, nogil=True)
def jittered(image: np.ndarray, order: np.ndarray, factors: np.ndarray) -> None:
    """Changes an image in place.

    Args:
        image: uint8 ``(height, width, 3)``.
        order: order of the changes; other numbers than those above are ignored.
        factors: float32, of brightness, contrast and saturation.
    """
    height, width = image.shape[0], image.shape[1]
    for kind in order:
        if kind > SATURATION or factors[kind] == 1:
            continue
        share, level = np.float32(factors[kind]), 0
        if kind == CONTRAST:
            total = 0
            for row in range(height):
                for column in range(width):
                    total += grey(int(image[row, column, 0]), int(image[row, column, 1]), int(image[row, column, 2]))
            level = int(total / (height * width) + 0.5)
        for row in range(height):
            for column in range(width):
                if kind == SATURATION:
                    level = grey(int(image[row, column, 0]), int(image[row, column, 1]), int(image[row, column, 2]))
                for channel in range(3):
                    image[row, column, channel] = blended(level, int(image[row, column, channel]), share)

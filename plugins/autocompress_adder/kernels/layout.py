"""Memory layout of images and filters for CPU kernels: channels last, so that runs are long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Geometry(NamedTuple):
    """Positions of patches in padded images ``(N, high, wide * channels)``.

    Attributes:
        high, wide: height and width of the output.
        down: rows of the image from one patch to the one below it.
        along: numbers from one patch to the next in its row: columns times channels.
        runs: rows of a patch.
        length: numbers in a row, contiguous in memory: width times channels.
    """

    high: int
    wide: int
    down: int
    along: int
    runs: int
    length: int

    @property
    def taps(self) -> int:
        """Numbers in a patch: ``K``."""
        return self.runs * self.length


def geometry(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> Geometry:
    """The geometry of images ``(N, C, H, W)`` and filters ``(O, C, h, w)``."""
    channels, high, wide = weight.shape[1:]
    return Geometry(
        (x.shape[2] + 2 * padding[0] - high) // stride[0] + 1,
        (x.shape[3] + 2 * padding[1] - wide) // stride[1] + 1,
        stride[0],
        stride[1] * channels,
        high,
        wide * channels,
    )


def images(x: torch.Tensor, padding: Sequence[int], dtype: torch.dtype, value: int = 0) -> torch.Tensor:
    """``x (N, C, H, W)`` padded with ``value`` as ``(N, H + 2 ph, (W + 2 pw) * C)``, contiguous."""
    count, channels, high, wide = x.shape
    last = x.detach().permute(0, 2, 3, 1)
    if not any(padding):
        return last.to(dtype).contiguous().reshape(count, high, wide * channels)
    shape = (count, high + 2 * padding[0], wide + 2 * padding[1], channels)
    padded = torch.full(shape, value, dtype=dtype)
    padded[:, padding[0] : padding[0] + high, padding[1] : padding[1] + wide].copy_(last)
    return padded.view(count, shape[1], shape[2] * channels)


def unfolded(images: torch.Tensor, shape: Geometry) -> torch.Tensor:
    """A view of padded images: patches as ``(N, high, wide, runs, length)``."""
    count, lines, line = images.shape
    strides = (lines * line, shape.down * line, shape.along, line, 1)
    return images.as_strided((count, shape.high, shape.wide, shape.runs, shape.length), strides)


def filters(weight: torch.Tensor, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """``weight (O, C, h, w)`` as rows ``(>= O, >= K)``, contiguous, in the order of :func:`images`.

    Both counts are padded with zeros to multiples of ``rows`` and ``columns``. Filters in torch's
    channels-last format are not copied if they need no padding.
    """
    last = weight.detach().permute(0, 2, 3, 1)
    count, taps = weight.shape[0], weight.shape[1:].numel()
    shape = (raised(count, rows), raised(taps, columns))
    if shape == (count, taps):
        return last.to(dtype).contiguous().view(shape)
    padded = torch.zeros(shape, dtype=dtype)
    padded[:count, :taps].copy_(last.reshape(count, taps))
    return padded


def as_images(last: torch.Tensor, x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """The reverse of :func:`images` without padding, in the shape and memory format of ``x``."""
    count, channels, high, wide = x.shape
    padded = last.view(count, high + 2 * padding[0], wide + 2 * padding[1], channels)
    inner = padded[:, padding[0] : padding[0] + high, padding[1] : padding[1] + wide]
    return inner.permute(0, 3, 1, 2).contiguous(memory_format=memory_format(x))


def as_outputs(rows: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, shape: Geometry) -> torch.Tensor:
    """The first ``N * high * wide`` rows as ``(N, O, high, wide)``, in the format of ``x``."""
    size, row = (x.shape[0], weight.shape[0], shape.high, shape.wide), rows.shape[1]
    found = rows.as_strided(size, (shape.high * shape.wide * row, 1, shape.wide * row, row))
    return found.contiguous(memory_format=memory_format(x))


def as_filters(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`filters` for rows ``(O, K)``, in shape and format of ``weight``."""
    count, channels, high, wide = weight.shape
    return rows.view(count, high, wide, channels).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(weight))


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """Channels last if ``x`` has only that format."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def raised(count: int, step: int) -> int:
    """``count`` rounded up to a multiple of ``step``."""
    return -(-count // step) * step

"""Uniform grids: scale and zero point of a range, and conversion of values to integers.

Equation numbers are those of Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference: a whitepaper", arXiv 1806.08342. ``value = (integer - zero_point) * scale`` throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SMALLEST_SCALE = 2.0**-23
"""Minimum scale of a grid, for example of a dead channel, whose range is (0, 0).

A scale must be neither 0 nor tiny. Runtimes store the bias as int32 in steps of input scale x
weight scale, which overflows if the step is too small for the channel's bias.
"""


@dataclass(frozen=True)
class Levels:
    """The integers of a grid, both ends included."""

    low: int
    high: int

    @property
    def steps(self) -> int:
        """Intervals between the integers: 255 for 8 bits."""
        return self.high - self.low


def unsigned_levels(bits: int) -> Levels:
    """``0 .. 2^bits - 1`` (eq. 2 and 9), for activations.

    Raises:
        ValueError: if ``bits`` is not 1 to 8.
    """
    _check_bits(bits, 1)
    return Levels(0, 2**bits - 1)


def signed_levels(bits: int, *, narrow: bool) -> Levels:
    """``-2^(bits-1) .. 2^(bits-1) - 1`` (eq. 8), for weights.

    ``narrow`` leaves out the lowest integer, so that the grid is symmetric (eq. 10).

    Raises:
        ValueError: if ``bits`` is not 2 to 8.
    """
    _check_bits(bits, 2)
    half = 2 ** (bits - 1)
    return Levels(1 - half if narrow else -half, half - 1)


def _check_bits(bits: int, fewest: int) -> None:
    if not fewest <= bits <= 8:
        raise ValueError(f"a uniform grid here has {fewest} to 8 bits, not {bits}")


def affine(minimum: torch.Tensor, maximum: torch.Tensor, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of an asymmetric grid over ``[minimum, maximum]`` (section 2.1).

    The range is widened to contain 0, so that 0 (padding, ReLU) is exact; ``(2.1, 3.5)`` becomes
    ``(0, 3.5)``.

    Args:
        minimum, maximum: scalars or ``(channels,)``, float; finite, ``minimum <= maximum``.
        levels: the integers.

    Returns:
        Scale, float32, > 0, and zero point, int32, within ``levels``; both of the shape of
        ``minimum``.
    """
    minimum, maximum = minimum.float().clamp(max=0.0), maximum.float().clamp(min=0.0)
    # Divided first, because the difference of the two ends may overflow.
    scale = (maximum / levels.steps - minimum / levels.steps).clamp(min=SMALLEST_SCALE)
    zero_point = (levels.low - torch.round(minimum / scale)).clamp(levels.low, levels.high)
    return scale, zero_point.to(torch.int32)


def symmetric(minimum: torch.Tensor, maximum: torch.Tensor, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale of a symmetric grid, with zero in the middle (section 2.2, eq. 7 to 11).

    The paper does not write the scale out. Here it is ``max|x| / (2^(bits-1) - 1)`` for signed
    levels, narrow or not, so that nothing clips. Unsigned levels without negative values have the
    scale ``maximum / (2^bits - 1)`` and zero point 0 (eq. 9). With negative values, their zero
    point is ``2^(bits-1)``: they are the signed grid, shifted to unsigned integers for uint8
    kernels.

    Args and returns as :func:`affine`.
    """
    largest = torch.maximum(minimum.float().abs(), maximum.float().abs())
    if levels.low < 0:
        zero_point, above = torch.zeros_like(largest), torch.full_like(largest, levels.high)
    else:
        middle = (levels.high + 1) // 2
        zero_point = torch.where(minimum < 0, float(middle), 0.0)
        above = levels.high - zero_point
    return (largest / above).clamp(min=SMALLEST_SCALE), zero_point.to(torch.int32)


def quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, levels: Levels, axis: int | None = None
) -> torch.Tensor:
    """The integers of ``x`` as int32: ``clamp(round(x / scale) + zero_point)`` (eq. 1 and 2).

    Ties go to the even number, as in ONNX's QuantizeLinear (TensorFlow's go away from zero).

    Args:
        x: any shape.
        scale, zero_point: scalars, or ``(channels,)`` along ``axis``.
        levels: the integers.
        axis: axis of the channels in ``x``; None for one scale per tensor.
    """
    scale, zero_point = along(scale, x.ndim, axis), along(zero_point, x.ndim, axis)
    # Clamped before the zero point is added, because values far outside would not fit an int32.
    codes = torch.round(x / scale).clamp(-(2.0**16), 2.0**16).to(torch.int32)
    return (codes + zero_point).clamp(levels.low, levels.high)


def along(values: torch.Tensor, dimensions: int, axis: int | None) -> torch.Tensor:
    """A view of ``values`` that broadcasts over ``dimensions`` dimensions along ``axis``."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)

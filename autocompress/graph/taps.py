"""Kernel taps of convolutions: finds those that read a pixel at a fixed size of the input."""

from __future__ import annotations

from typing import NamedTuple


class Axis(NamedTuple):
    """A convolution along one axis of its input: pixels, padding and how its windows step."""

    extent: int
    before: int
    after: int
    stride: int
    dilation: int
    outputs: int


def axis_of(extent: int, size: int, before: int, after: int, stride: int = 1, dilation: int = 1) -> Axis:
    """The axis of a kernel of ``size`` taps; its number of outputs follows."""
    outputs = (extent + before + after - dilation * (size - 1) - 1) // stride + 1
    return Axis(extent, before, after, stride, dilation, outputs)


def live_taps(axis: Axis, size: int) -> list[int]:
    """Taps of a kernel of ``size`` that read a pixel for some output; the others read padding."""
    starts = range(-axis.before, -axis.before + axis.outputs * axis.stride, axis.stride)
    return [tap for tap in range(size) if any(0 <= start + tap * axis.dilation < axis.extent for start in starts)]


class Trim(NamedTuple):
    """A part of a kernel along one axis: its first and last tap, and its padding at both ends."""

    first: int
    last: int
    padding: int


def trimmed(axis: Axis, size: int) -> Trim | None:
    """The shortest part of a kernel of ``size`` taps that gives the same outputs.

    It has all live taps. It also has dead taps between live ones, and dead taps that are needed for
    equal padding at both ends.

    Returns:
        None if no tap is live, or if no shorter part gives the same number of outputs.
    """
    live = live_taps(axis, size)
    if not live:
        return None
    found: Trim | None = None
    for first in range(live[0], -1, -1):
        padding = axis.before - first * axis.dilation  # the first window starts where it did
        if padding < 0:
            continue
        for last in range(live[-1], size):
            own = axis_of(axis.extent, last - first + 1, padding, padding, axis.stride, axis.dilation)
            if own.outputs == axis.outputs and (found is None or last - first < found.last - found.first):
                found = Trim(first, last, padding)
    return None if found is None or found.last - found.first + 1 == size else found

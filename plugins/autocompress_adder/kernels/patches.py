"""Gradients of patches, folded into gradients of the images that the patches were cut from."""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True, nogil=True)
def scatter(patches: Any, shape: Any, begin: int, end: int, into: Any) -> None:
    """Adds patches to the images from which they were gathered, for lines ``begin`` to ``end``.

    Every line is written by one caller, which adds up all patches that contain it.

    Args:
        patches: ``(>= N * high * wide, >= K)``, of all images.
        shape: a :class:`layout.Geometry`.
        begin, end: lines of ``into``, counted through all images.
        into: ``(N, high, wide * channels)``.
    """
    lines = into.shape[1]
    for number in range(begin, end):
        image, line = divmod(number, lines)
        target = into[image, line]
        for run in range(shape.runs):
            down, rest = divmod(line - run, shape.down)
            if line < run or rest != 0 or down >= shape.high:
                continue
            first = (image * shape.high + down) * shape.wide
            for along in range(shape.wide):
                run_of = target[along * shape.along : along * shape.along + shape.length]
                patch = patches[first + along, run * shape.length : (run + 1) * shape.length]
                for k in range(shape.length):
                    run_of[k] += patch[k]

"""The forward pass in float32: ``-sum_k |P[m, k] - W[o, k]|``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from autocompress_adder.kernels import processor
from autocompress_adder.kernels.tiles import BLOCK, Tile, compiled, locate
from autocompress_adder.kernels.vectors import function

LANES = processor.lanes()
ROWS, FILTERS = processor.tile()
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def absolute(builder: ir.IRBuilder, patch: ir.Value, weight: ir.Value, p: ir.Value) -> ir.Value:
    """``|patch - weight|``; ``p`` is 1."""
    del p
    fabs = function(builder, f"llvm.fabs.v{LANES}f32", VECTOR, [VECTOR])
    return builder.call(fabs, [builder.fsub(patch, weight)])


def negative(builder: ir.IRBuilder, sums: Sequence[ir.Value]) -> list[ir.Value]:
    """The sums with the sign of the outputs."""
    return [builder.fneg(one) for one in sums]


_tile = compiled(
    Tile(ROWS, FILTERS, VECTOR, VECTOR, absolute, ir.IRBuilder.fadd, ir.IRBuilder.fadd, negative, ir.FloatType()),
    types.float32,
    types.float32,
)


@njit(cache=True, nogil=True)
def distances(images: Any, filters: Any, shape: Any, begin: int, end: int, out: Any) -> None:
    """``out[m, o] = -sum_k |P[m, k] - W[o, k]|`` for patches ``begin`` to ``end``.

    Args:
        images: float32 ``(N, lines, line)``, padded.
        filters: float32 ``(O, K)``, ``O`` a multiple of FILTERS.
        shape: a :class:`layout.Geometry`; ``length`` is a multiple of LANES.
        begin, end: patches, counted row by row through all images. Up to ROWS - 1 rows of ``out``
            behind ``end`` are overwritten too.
        out: float32 ``(>= N * high * wide + ROWS - 1, O)``.
    """
    flat, lines, line = images.reshape(-1), images.shape[1], images.shape[2]
    begins, one = np.empty(BLOCK, np.int64), np.float32(1)
    for first in range(begin, end, BLOCK):
        locate(shape, first, end, lines, line, begins)
        for o in range(0, filters.shape[0], FILTERS):
            for row in range(0, min(BLOCK, end - first), ROWS):
                _tile(flat, begins, row, line, shape.runs, shape.length, filters, o, out, first + row, one)

"""Inference with integers: ``sum_k |P[m, k] - W[o, k]|`` of uint8, exact, as int32.

x86 has an instruction for it: ``vpsadbw`` adds up the absolute differences of eight pairs of bytes
into each 64-bit number of a vector. It takes 64 pairs at a time with AVX-512, 32 with AVX2; other
processors use ordinary instructions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from autocompress_adder.kernels import processor
from autocompress_adder.kernels.tiles import BLOCK, Tile, compiled, locate
from autocompress_adder.kernels.vectors import constant, function

PORTABLE, AVX2, AVX512, VNNI = 0, 1, 2, 3
NEEDS = {
    VNNI: ("avx512f", "avx512bw", "avx512vnni"),
    AVX512: ("avx512f", "avx512bw"),
    AVX2: ("avx2",),
    PORTABLE: (),
}
"""The instruction sets that each form needs; the fastest form first."""
BYTES, ROWS, FILTERS = 64, 4, 4
"""Bytes of a vector, maximum number of patches of a tile, and number of filters of a tile."""


@functools.cache
def forms() -> tuple[int, ...]:
    """The forms that this processor supports, the fastest first."""
    return tuple(form for form, needed in NEEDS.items() if processor.has(*needed))


def _tile_of(form: int, rows: int, size: int, name: str) -> Tile | None:
    """The tile of a form, ``rows`` by FILTERS, with vectors of ``size`` bytes.

    ``name`` is the instruction.
    """
    taps, wide = ir.VectorType(ir.IntType(8), size), ir.VectorType(ir.IntType(64), size // 8)

    def apart(builder: ir.IRBuilder, patch: ir.Value, weight: ir.Value, p: ir.Value) -> ir.Value:
        del p
        return builder.call(function(builder, name, wide, [taps, taps]), [patch, weight])

    def share(builder: ir.IRBuilder, sums: Sequence[ir.Value]) -> list[ir.Value]:
        # A sum fits into 32 bits. From here on, two neighbours share a 64-bit number, with the
        # first in its lower half, which comes first in memory.
        up = constant(wide, 32)
        pairs = zip(sums[::2], sums[1::2], strict=True)
        return [builder.or_(first, builder.shl(second, up)) for first, second in pairs]

    add = ir.IRBuilder.add
    return Tile(rows, FILTERS, taps, wide, apart, add, add, share, ir.IntType(32)) if form in forms() else None


def _gathered_by_products() -> Tile | None:
    """AVX-512's tile with ``vpdpwssd`` (products of 16-bit numbers with 1) in place of additions.

    ``vpsadbw`` only runs on one of the two vector units. Additions run on either one, and may delay
    ``vpsadbw``. With products, the kernel was 10 to 20 % faster.
    """
    tile = _tile_of(VNNI, 4, 64, "llvm.x86.avx512.psad.bw.512")
    if tile is None:
        return None
    numbers = ir.VectorType(ir.IntType(32), 16)

    def gather(builder: ir.IRBuilder, sums: ir.Value, found: ir.Value) -> ir.Value:
        add_products = function(builder, "llvm.x86.avx512.vpdpwssd.512", numbers, [numbers] * 3)
        grown = builder.call(
            add_products, [builder.bitcast(sums, numbers), builder.bitcast(found, numbers), constant(numbers, 1)]
        )
        return builder.bitcast(grown, tile.sums)

    return tile._replace(gather=gather)


def _loop() -> Tile:
    """The portable tile: ``vpsadbw`` for 16 bytes, with instructions of every processor."""
    taps, sums = ir.VectorType(ir.IntType(8), 16), ir.VectorType(ir.IntType(32), 4)

    def halves(builder: ir.IRBuilder, vector: ir.Value, bits: int) -> ir.Value:
        # Adds both halves of each number into a number twice as wide.
        kind = ir.VectorType(ir.IntType(2 * bits), 128 // (2 * bits))
        wide = builder.bitcast(vector, kind)
        low = builder.and_(wide, constant(kind, (1 << bits) - 1))
        return builder.add(low, builder.lshr(wide, constant(kind, bits)))

    def apart(builder: ir.IRBuilder, patch: ir.Value, weight: ir.Value, p: ir.Value) -> ir.Value:
        del p
        larger, smaller = (function(builder, f"llvm.{name}.v16i8", taps, [taps] * 2) for name in ("umax", "umin"))
        difference = builder.sub(builder.call(larger, [patch, weight]), builder.call(smaller, [patch, weight]))
        return halves(builder, halves(builder, difference, 8), 16)

    def alone(builder: ir.IRBuilder, found: Sequence[ir.Value]) -> Sequence[ir.Value]:
        del builder
        return found

    return Tile(2, 2, taps, sums, apart, ir.IRBuilder.add, ir.IRBuilder.add, alone, ir.IntType(32))


_tile_products = compiled(_gathered_by_products(), types.uint8, types.int32)
_tile512 = compiled(_tile_of(AVX512, 4, 64, "llvm.x86.avx512.psad.bw.512"), types.uint8, types.int32)
_tile256 = compiled(_tile_of(AVX2, 2, 32, "llvm.x86.avx2.psad.bw"), types.uint8, types.int32)
_tile128 = compiled(_loop(), types.uint8, types.int32)


@njit(cache=True, nogil=True)
def distances(images: Any, filters: Any, shape: Any, begin: int, end: int, form: int, out: Any) -> None:
    """``out[m, o] = sum_k |P[m, k] - W[o, k]|`` for patches ``begin`` to ``end``.

    Args:
        images: uint8 ``(N, lines, line)``, padded.
        filters: uint8 ``(O, K)``, ``O`` a multiple of FILTERS.
        shape: a :class:`layout.Geometry`; ``length`` is a multiple of BYTES.
        begin, end: patches, counted row by row through all images. Up to ROWS - 1 rows of ``out``
            behind ``end`` are overwritten too.
        form: one of :func:`forms`.
        out: int32 ``(>= N * high * wide + ROWS - 1, O)``.
    """
    flat, lines, line = images.reshape(-1), images.shape[1], images.shape[2]
    runs, length = shape.runs, shape.length
    begins, one = np.empty(BLOCK, np.int64), np.float32(1)
    for first in range(begin, end, BLOCK):
        locate(shape, first, end, lines, line, begins)
        count = min(BLOCK, end - first)
        for o in range(0, filters.shape[0], FILTERS):
            if form == VNNI:
                for row in range(0, count, 4):
                    _tile_products(flat, begins, row, line, runs, length, filters, o, out, first + row, one)
            elif form == AVX512:
                for row in range(0, count, 4):
                    _tile512(flat, begins, row, line, runs, length, filters, o, out, first + row, one)
            elif form == AVX2:
                for row in range(0, count, 2):
                    _tile256(flat, begins, row, line, runs, length, filters, o, out, first + row, one)
            else:
                for row in range(0, count, 2):
                    _tile128(flat, begins, row, line, runs, length, filters, o, out, first + row, one)
                    _tile128(flat, begins, row, line, runs, length, filters, o + 2, out, first + row, one)

"""The inner loop of both forward kernels.

It computes a tile: the results of a few patches and a few filters, with all sums in registers.
Patches are read directly from the padded images. A patch has ``runs`` rows, each with ``length``
contiguous numbers, and its rows begin ``line`` numbers apart. Each step of the loop loads one
vector of each patch and one of each filter, and uses each vector for several distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from autocompress_adder.kernels.vectors import INDEX, accumulators, everywhere, index, item_pointer, pick, totals

BLOCK = 64
"""Number of patches of a block. The part of the images that they cover stays in the cache."""


class Tile(NamedTuple):
    """The size of a tile, and the functions that emit its instructions.

    Attributes:
        rows, filters: number of patches and of filters of the tile.
        taps: type of the vectors that are loaded from images and filters.
        sums: type of the vector with the partial sums of a pair of a patch and a filter.
        apart: emits the distances between two vectors of type ``taps``, as a vector of type
            ``sums``. Its last argument is a vector of exponents.
        gather: emits the addition of such distances to partial sums.
        add: emits the addition of two vectors that ``finish`` has made.
        finish: emits vectors for :func:`vectors.totals`, which adds their lanes. Its argument has
            the partial sums of all pairs, patch by patch.
        result: type of a result. The vector from ``totals`` holds one result for each pair.
    """

    rows: int
    filters: int
    taps: ir.VectorType
    sums: ir.VectorType
    apart: Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
    gather: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
    add: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
    finish: Callable[[ir.IRBuilder, Sequence[ir.Value]], Sequence[ir.Value]]
    result: ir.Type


def compiled(tile: Tile | None, taps: Any, results: Any) -> Any:
    """Returns a function for numba that computes a tile.

    The function writes ``out[to + i, which + j]``: the result of the patch that begins at
    ``begins[row + i]`` and of the filter ``which + j``, for every patch i and filter j of the tile.

    Args:
        tile: the tile; None on a processor without its instructions, where the function does
            nothing.
        taps: numba's type of the numbers in images and filters.
        results: numba's type of the numbers in the output.
    """
    at = types.int64
    flat, begins = types.Array(taps, 1, "C"), types.Array(types.int64, 1, "C")
    filters, out = types.Array(taps, 2, "C"), types.Array(results, 2, "C")
    signature = types.void(flat, begins, at, at, at, at, filters, at, out, at, types.float32)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if tile is not None:
            arrays = {at: context.make_array(signature.args[at])(context, builder, values[at]) for at in (0, 1, 6, 8)}
            _tile(builder, tile, arrays, values)
        return context.get_dummy_value()

    @intrinsic
    def function(  # type: ignore[no-untyped-def]  # numba wants them named
        typing_context, images, begins, row, line, runs, length, filters, which, out, to, p
    ):
        del typing_context, images, begins, row, line, runs, length, filters, which, out, to, p
        return signature, emit

    return function


def _tile(builder: ir.IRBuilder, tile: Tile, arrays: Any, values: Any) -> None:
    row, line, runs, length, which, to = (values[at] for at in (2, 3, 4, 5, 7, 9))
    columns, wide = (cgutils.unpack_tuple(builder, arrays[at].shape, 2)[1] for at in (6, 8))
    begins = [builder.load(item_pointer(builder, arrays[1].data, builder.add(row, index(i)))) for i in range(tile.rows)]
    taken = [builder.mul(builder.add(which, index(j)), columns) for j in range(tile.filters)]
    exponents = everywhere(builder, values[10], tile.taps.count)
    places = accumulators(builder, tile.rows * tile.filters, tile.sums)
    with cgutils.for_range(builder, runs, intp=INDEX) as run:
        down, across = builder.mul(run.index, line), builder.mul(run.index, length)
        patches = [item_pointer(builder, arrays[0].data, builder.add(begin, down)) for begin in begins]
        weights = [item_pointer(builder, arrays[6].data, builder.add(start, across)) for start in taken]
        with cgutils.for_range_slice(builder, index(0), length, index(tile.taps.count), INDEX) as (k, _):
            left = [builder.load(item_pointer(builder, patch, k, tile.taps), align=1) for patch in patches]
            for j, weight in enumerate(weights):
                right = builder.load(item_pointer(builder, weight, k, tile.taps), align=1)
                for i in range(tile.rows):
                    place = places[i * tile.filters + j]
                    apart = tile.apart(builder, left[i], right, exponents)
                    builder.store(tile.gather(builder, builder.load(place), apart), place)
    sums = tile.finish(builder, [builder.load(place) for place in places])
    found = totals(builder, sums, lambda one, other: tile.add(builder, one, other))
    found = builder.bitcast(found, ir.VectorType(tile.result, tile.rows * tile.filters))
    for i in range(tile.rows):
        start = builder.add(builder.mul(builder.add(to, index(i)), wide), which)
        part = pick(builder, found, range(i * tile.filters, (i + 1) * tile.filters))
        builder.store(part, item_pointer(builder, arrays[8].data, start, part.type), align=4)


@njit(cache=True, nogil=True)
def locate(shape: Any, first: int, end: int, lines: int, line: int, begins: Any) -> None:
    """Writes where patches begin in the flat padded images, from patch ``first`` on.

    Entries for patches from ``end`` on repeat that of the patch before ``end``.

    Args:
        shape: a :class:`layout.Geometry`.
        first, end: index of the first patch, and of the one after the last. Patches are counted
            row by row through all images.
        lines, line: number of rows of a padded image, and of numbers in a row.
        begins: int64 ``(BLOCK,)``; the positions are written to it.
    """
    for number in range(begins.shape[0]):
        image, place = divmod(min(first + number, end - 1), shape.high * shape.wide)
        down, along = divmod(place, shape.wide)
        begins[number] = (image * lines + down * shape.down) * np.int64(line) + along * shape.along

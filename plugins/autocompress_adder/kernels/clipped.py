"""Gradient of patches in float32: ``gP[m, k] = sum_o G[m, o] * clip(W[o, k] - P[m, k], -1, 1)``."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from autocompress_adder.kernels import processor
from autocompress_adder.kernels.vectors import INDEX, accumulators, constant, everywhere, function, index, item_pointer

LANES = processor.lanes()
VECTORS = 2
ROWS = 4 if LANES == 16 else 2
PANEL = LANES * VECTORS
"""Columns of a tile, and of a panel of filters; panels are stored one behind the other."""


def _tile(typing_context: Any, patches: Any, row: Any, column: Any, panel: Any, gradient: Any) -> tuple[Any, Any]:
    """Replaces ``P`` by ``gP`` for ROWS rows from ``row`` and PANEL columns from ``column``.

    ``panel (O, PANEL)`` has the filters at these columns. Patches and sums stay in registers for
    all filters. NaN stays NaN, because the comparisons below are false for it.
    """
    del typing_context, patches, row, column, panel, gradient

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(signature.args[at])(context, builder, values[at]) for at in (0, 3, 4)]
        places, panel_of, slopes = (array.data for array in arrays)
        columns, count = (
            cgutils.unpack_tuple(builder, arrays[0].shape, 2)[1],
            cgutils.unpack_tuple(builder, arrays[1].shape, 2)[0],
        )
        vector = ir.VectorType(ir.FloatType(), LANES)
        multiply_add = function(builder, f"llvm.fma.v{LANES}f32", vector, [vector] * 3)
        above, below = constant(vector, 1.0), constant(vector, -1.0)
        rows = [builder.add(values[1], index(i)) for i in range(ROWS)]
        starts = [builder.add(builder.mul(row, columns), values[2]) for row in rows]
        weighing = [item_pointer(builder, slopes, builder.mul(row, count)) for row in rows]
        pointers = [
            [item_pointer(builder, places, builder.add(start, index(v * LANES)), vector) for v in range(VECTORS)]
            for start in starts
        ]
        taps = [[builder.load(pointer, align=4) for pointer in line] for line in pointers]
        sums = [accumulators(builder, VECTORS, vector) for _ in range(ROWS)]
        with cgutils.for_range(builder, count, intp=INDEX) as loop:
            start = builder.mul(loop.index, index(PANEL))
            weights = [
                builder.load(item_pointer(builder, panel_of, builder.add(start, index(v * LANES)), vector), align=4)
                for v in range(VECTORS)
            ]
            for i in range(ROWS):
                slope = everywhere(builder, builder.load(item_pointer(builder, weighing[i], loop.index)), LANES)
                for v in range(VECTORS):
                    apart = builder.fsub(weights[v], taps[i][v])
                    apart = builder.select(builder.fcmp_ordered(">", apart, above), above, apart)
                    apart = builder.select(builder.fcmp_ordered("<", apart, below), below, apart)
                    place = sums[i][v]
                    builder.store(builder.call(multiply_add, [slope, apart, builder.load(place)]), place)
        for line, found in zip(pointers, sums, strict=True):
            for pointer, place in zip(line, found, strict=True):
                builder.store(builder.load(place), pointer, align=4)
        return context.get_dummy_value()

    floats = types.Array(types.float32, 2, "C")
    return types.void(floats, types.int64, types.int64, floats, floats), emit


_compiled: Any = intrinsic(_tile)


@njit(cache=True, nogil=True)
def clipped(patches: Any, panels: Any, gradient: Any, begin: int, end: int) -> None:
    """Replaces ``P`` by ``gP`` for rows ``begin`` to ``end``.

    Args:
        patches: float32 ``(M, K)``, padded to multiples of ROWS and PANEL.
        panels: float32 ``(K / PANEL, O, PANEL)``, the filters.
        gradient: float32 ``(M, O)``.
        begin, end: multiples of ROWS.
    """
    for block in range(begin, end, 64):
        for number in range(panels.shape[0]):
            for row in range(block, min(block + 64, end), ROWS):
                _compiled(patches, row, number * PANEL, panels[number], gradient)

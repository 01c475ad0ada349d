"""LLVM instructions for the inner loops of the kernels, emitted with numba.

numba leaves vectorisation to LLVM, which neither keeps a tile of sums in registers nor uses
``vpsadbw``. So tiles are written as LLVM instructions on vectors. Everything else is plain numba.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils

INDEX = ir.IntType(64)


def index(value: int) -> ir.Constant:
    """A constant index."""
    return ir.Constant(INDEX, value)


def item_pointer(builder: ir.IRBuilder, data: ir.Value, position: ir.Value, kind: ir.Type | None = None) -> ir.Value:
    """A pointer to the item at a position, or to a ``kind`` (such as a vector) there."""
    pointer = builder.gep(data, [position])
    return pointer if kind is None else builder.bitcast(pointer, kind.as_pointer())


def function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """An intrinsic function of LLVM by its full name (llvmlite has none for vectors)."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def accumulators(builder: ir.IRBuilder, count: int, kind: ir.Type) -> list[ir.Value]:
    """Variables that start at 0; LLVM turns them into registers."""
    places = [cgutils.alloca_once(builder, kind) for _ in range(count)]
    for place in places:
        builder.store(ir.Constant(kind, None), place)
    return places


def everywhere(builder: ir.IRBuilder, number: ir.Value, lanes: int) -> ir.Value:
    """A vector with the same number in each lane."""
    vector = ir.VectorType(number.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return pick(builder, first, [0] * lanes)


def constant(kind: ir.VectorType, number: float) -> ir.Constant:
    """A vector with the same constant in each lane."""
    return ir.Constant(kind, [number] * kind.count)


def pick(builder: ir.IRBuilder, vector: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """A vector of these lanes of a vector."""
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), _mask(lanes))


def totals(
    builder: ir.IRBuilder, vectors: Sequence[ir.Value], add: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """One vector with the sum of the lanes of each vector; there are as many vectors as lanes.

    Neighbouring lanes are added in pairs, two vectors at a time. This takes about 2 shuffles per
    vector, instead of one for each halving of each vector.
    """
    left = list(vectors)
    lanes = left[0].type.count
    assert len(left) == lanes
    while len(left) > 1:
        left = [
            add(
                builder.shuffle_vector(first, second, _mask(range(0, 2 * lanes, 2))),
                builder.shuffle_vector(first, second, _mask(range(1, 2 * lanes, 2))),
            )
            for first, second in zip(left[::2], left[1::2], strict=True)
        ]
    return left[0]


def _mask(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))

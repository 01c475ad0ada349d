"""Forward pass for ``1 < p < 2`` in float32, for schedules from l2 to l1.

It computes ``-sum_k abs(P[m, k] - W[o, k])**p``.

There is no vector instruction for powers, so ``a**p = 2**(p * log2(a))`` is computed with
polynomials. This takes about 35 instructions per vector, while p = 1 takes 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.polynomial import Chebyshev, Polynomial

from autocompress_adder.kernels.distance import FILTERS, LANES, ROWS, VECTOR, absolute, negative
from autocompress_adder.kernels.tiles import BLOCK, Tile, compiled, locate
from autocompress_adder.kernels.vectors import constant, function

_BITS = ir.VectorType(ir.IntType(32), LANES)
_MANTISSA = 23
_ROOT_HALF = int(np.float32(math.sqrt(0.5)).view(np.int32))
_TO_WHOLE = 1.5 * 2.0**_MANTISSA
"""Adding and subtracting this number rounds to the nearest whole number."""
_LARGEST = float(np.finfo(np.float32).max)


def _fitted(of: Callable[[Any], Any], degree: int, low: float, high: float) -> list[float]:
    """Coefficients, constant first, of a polynomial with float32 accuracy in a range."""
    fitted: list[float] = Chebyshev.interpolate(of, degree, [low, high]).convert(kind=Polynomial).coef.tolist()
    return fitted


_LOG2 = _fitted(lambda f: np.log2(1 + f) / f, 9, math.sqrt(0.5) - 1, math.sqrt(2) - 1)
_EXP2 = [1.0, *_fitted(lambda r: (2.0**r - 1) / np.where(r == 0, 1, r) + (r == 0) * math.log(2), 5, -0.5, 0.5)]


def _polynomial(builder: ir.IRBuilder, at: ir.Value, coefficients: list[float]) -> ir.Value:
    fma = function(builder, f"llvm.fma.v{LANES}f32", VECTOR, [VECTOR] * 3)
    value = constant(VECTOR, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = builder.call(fma, [value, at, constant(VECTOR, coefficient)])
    return value


def _raised(builder: ir.IRBuilder, patch: ir.Value, weight: ir.Value, p: ir.Value) -> ir.Value:
    """``|patch - weight|**p``; 0 below about 2**-126."""
    value = absolute(builder, patch, weight, p)
    # value = mantissa * 2**exponent, the mantissa from sqrt(1/2) to sqrt(2), where log2 is a short
    # polynomial
    bits = builder.bitcast(value, _BITS)
    shift = constant(_BITS, _MANTISSA)
    exponent = builder.ashr(builder.sub(bits, constant(_BITS, _ROOT_HALF)), shift)
    mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, shift)), VECTOR)
    fraction = builder.fsub(mantissa, constant(VECTOR, 1.0))
    log2 = builder.fadd(builder.sitofp(exponent, VECTOR), builder.fmul(fraction, _polynomial(builder, fraction, _LOG2)))
    wanted = builder.fmul(log2, p)
    least = constant(VECTOR, -127.0)  # float32 has no smaller exponent, and 0 has this one
    wanted = builder.select(builder.fcmp_ordered("<", wanted, least), least, wanted)
    whole = builder.fsub(builder.fadd(wanted, constant(VECTOR, _TO_WHOLE)), constant(VECTOR, _TO_WHOLE))
    power = builder.bitcast(_polynomial(builder, builder.fsub(wanted, whole), _EXP2), _BITS)
    power = builder.bitcast(builder.add(power, builder.shl(builder.fptosi(whole, _BITS), shift)), VECTOR)
    # Infinity and NaN are unchanged.
    return builder.select(builder.fcmp_ordered("<=", value, constant(VECTOR, _LARGEST)), power, value)


_tile = compiled(
    Tile(ROWS, FILTERS, VECTOR, VECTOR, _raised, ir.IRBuilder.fadd, ir.IRBuilder.fadd, negative, ir.FloatType()),
    types.float32,
    types.float32,
)


@njit(cache=True, nogil=True)
def distances(images: Any, filters: Any, shape: Any, begin: int, end: int, p: float, out: Any) -> None:
    """``out[m, o] = -sum_k abs(P[m, k] - W[o, k])**p`` for patches ``begin`` to ``end``.

    Arguments as for :func:`distance.distances`. Numbers above about 1e19 overflow.
    """
    flat, lines, line = images.reshape(-1), images.shape[1], images.shape[2]
    begins = np.empty(BLOCK, np.int64)
    for first in range(begin, end, BLOCK):
        locate(shape, first, end, lines, line, begins)
        for o in range(0, filters.shape[0], FILTERS):
            for row in range(0, min(BLOCK, end - first), ROWS):
                _tile(flat, begins, row, line, shape.runs, shape.length, filters, o, out, first + row, np.float32(p))

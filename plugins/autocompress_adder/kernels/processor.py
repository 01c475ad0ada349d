"""The instruction sets of the processor for which numba compiles."""

from __future__ import annotations

import functools

from llvmlite import binding
from numba import config


@functools.cache
def features() -> frozenset[str]:
    """LLVM's names of instruction sets, such as ``avx2``, or those of ``NUMBA_CPU_FEATURES``."""
    limits: dict[str, str | None] = vars(config)  # numba makes these attributes from the environment
    if limits["CPU_NAME"] is None and limits["CPU_FEATURES"] is None:
        found = binding.get_host_cpu_features()
        return frozenset(name for name, there in found.items() if there)
    return frozenset(name[1:] for name in (limits["CPU_FEATURES"] or "").split(",") if name.startswith("+"))


def has(*names: str) -> bool:
    """Whether the processor has all of these."""
    return features().issuperset(names)


@functools.cache
def lanes() -> int:
    """Number of 32-bit values in a vector: 16 (AVX-512), 8 (AVX) or 4."""
    if has("avx512f", "avx512dq"):
        return 16
    return 8 if has("avx") else 4


@functools.cache
def tile() -> tuple[int, int]:
    """Rows of patches and of filters in a tile.

    A tile has :func:`lanes` pairs, so that its sums fill one vector, and all of them fit into
    registers.
    """
    return {16: (4, 4), 8: (2, 4), 4: (2, 2)}[lanes()]

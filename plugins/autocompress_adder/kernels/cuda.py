"""The float kernels on CUDA, in Triton: on patches ``(N, K, L)`` as ``torch.unfold`` gives them.

There is no matrix unit for distances: each step compares one row of patches with one row of
filters, and sums stay in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

PLACES, FILTERS, TAPS = 64, 64, 32
"""A block's share of ``L``, ``O`` and ``K``."""


@triton.jit
def _distances(
    patches: Any, rows: Any, out: Any, places: Any, filters: Any, taps: Any, PLACES: tl.constexpr, FILTERS: tl.constexpr
) -> None:
    image = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    which = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    there, known = at < places, which < filters
    sums = tl.zeros((FILTERS, PLACES), dtype=tl.float32)
    patch = patches + image * taps * places + at
    weights = rows + which
    for _ in range(taps):
        left = tl.load(patch, mask=there, other=0.0)
        right = tl.load(weights, mask=known, other=0.0)
        sums += tl.abs(left[None, :] - right[:, None])
        patch += places
        weights += filters
    target = out + image * filters * places + which[:, None] * places + at[None, :]
    tl.store(target, sums, mask=known[:, None] & there[None, :])


@triton.jit
def _clipped(
    slopes: Any,
    patches: Any,
    rows: Any,
    out: Any,
    places: Any,
    filters: Any,
    taps: Any,
    PLACES: tl.constexpr,
    TAPS: tl.constexpr,
) -> None:
    image = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    tap = tl.program_id(1) * TAPS + tl.arange(0, TAPS)
    there, known = at < places, tap < taps
    both = known[:, None] & there[None, :]
    where = image * taps * places + tap[:, None] * places + at[None, :]
    patch = tl.load(patches + where, mask=both, other=0.0)
    sums = tl.zeros((TAPS, PLACES), dtype=tl.float32)
    slope = slopes + image * filters * places + at
    weights = rows + tap
    for _ in range(filters):
        right = tl.load(weights, mask=known, other=0.0)
        apart = right[:, None] - patch
        # NaN stays NaN, because comparisons are false for it.
        apart = tl.where(apart > 1.0, 1.0, tl.where(apart < -1.0, -1.0, apart))
        sums += tl.load(slope, mask=there, other=0.0)[None, :] * apart
        slope += places
        weights += taps
    tl.store(out + where, sums, mask=both)


def distances(patches: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``sum_k |P[n, k, l] - W[o, k]|`` as ``(N, O, L)``, float32."""
    (count, taps, places), filters = patches.shape, len(rows)
    out = patches.new_empty(count, filters, places)
    grid = (triton.cdiv(places, PLACES), triton.cdiv(filters, FILTERS), count)
    across = rows.T.contiguous()
    _distances[grid](patches.contiguous(), across, out, places, filters, taps, PLACES=PLACES, FILTERS=FILTERS)
    return out


def clipped(slopes: torch.Tensor, patches: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``gP[n, k, l] = sum_o G[n, o, l] * clip(W[o, k] - P[n, k, l], -1, 1)``, float32."""
    (count, taps, places), filters = patches.shape, len(rows)
    patches = patches.contiguous()
    out = torch.empty_like(patches)
    grid = (triton.cdiv(places, PLACES), triton.cdiv(taps, TAPS), count)
    _clipped[grid](
        slopes.contiguous(), patches, rows.contiguous(), out, places, filters, taps, PLACES=PLACES, TAPS=TAPS
    )
    return out

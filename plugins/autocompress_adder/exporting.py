"""The adder layer in plain torch operators, for files.

ONNX has no operator for a distance. These are standard, and two of them a chunk of filters:

    |p - w| = 2 max(p, w) - p - w     so     -sum_k |P - W| = sum_k P + sum_k W - 2 sum_k max(P, W)

They hold one number for each tap of each filter at each position, so filters come in chunks. Taps lie innermost: on one
core ONNX Runtime takes 0.8 ms for 64 filters of 576 taps at 64 positions, and 11.6 ms for ``Sub`` and ``ReduceL1`` with
positions innermost. A matrix product of that size takes 0.03 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

NUMBERS = 1 << 20
"""About so many of one image at a time (4 MiB in float32)."""
MOST_CHUNKS = 32
"""But no more chunks than this, so that a file does not fill with nodes: then memory grows with the layer."""


def adder(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    """``-sum_k |P[m, k] - W[o, k]|`` (digest, section 1), ``(N, O, H', W')`` for ``x`` ``(N, C, H, W)`` of fixed height
    and width; N may be free."""
    high = (x.shape[2] + 2 * padding[0] - weight.shape[2]) // stride[0] + 1
    wide = (x.shape[3] + 2 * padding[1] - weight.shape[3]) // stride[1] + 1
    patches = _patches(x, weight.shape, stride, padding, (high, wide))
    filters = weight.flatten(1).unsqueeze(1)
    size = chunk(len(weight), weight[0].numel() * high * wide)
    larger = [torch.maximum(patches, some).sum(3) for some in filters.split(size)]
    both = torch.cat(larger, 1) if len(larger) > 1 else larger[0]
    return (patches.sum(3) + filters.sum(2) - 2 * both).unflatten(2, (high, wide))


def chunk(filters: int, each: int) -> int:
    """How many of so many filters come at a time, where each has ``each`` numbers in an image."""
    return min(filters, max(NUMBERS // each, -(-filters // MOST_CHUNKS), 1))


def _patches(
    x: torch.Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int], size: tuple[int, int]
) -> torch.Tensor:
    """``(N, 1, L, K)``, taps in the order of ``weight.flatten(1)``: rows gathered, then columns. A slice for each place
    in the kernel is the same in many more nodes."""
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        torch.tensor([place + step * at for place in range(taps) for at in range(count)], device=x.device)
        for taps, step, count in zip(shape[2:], stride, size, strict=True)
    )
    gathered = x.index_select(2, rows).index_select(3, columns)
    parts = gathered.reshape(-1, shape[1], shape[2], size[0], shape[3], size[1])
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(-1, 1, size[0] * size[1], shape[1] * shape[2] * shape[3])

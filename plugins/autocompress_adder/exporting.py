"""The adder layer in plain torch operators, for files.

ONNX has no operator for a distance. This form needs only two standard operators for each chunk of
filters:

    |p - w| = 2 max(p, w) - p - w     so     -sum_k |P - W| = sum_k P + sum_k W - 2 sum_k max(P, W)

Their tensors have one number for each tap of each filter at each position, so filters are computed
in chunks. A layer is one ``Scan`` with the two operators in its body, so that the file does not
grow with the number of chunks. Taps are the innermost axis: on one core, ONNX Runtime takes 0.8 ms
for 64 filters of 576 taps at 64 positions, and 11.6 ms for ``Sub`` and ``ReduceL1`` with positions
innermost. A matrix product of that size takes 0.03 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from autocompress.compat.torch_scan import scan

NUMBERS = 1 << 20
"""Numbers that are computed at a time for one image (4 MiB in float32); at least one filter's."""


def adder(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    """``-sum_k abs(P[m, k] - W[o, k])`` with operators of ONNX.

    ``x`` is ``(N, C, H, W)`` with fixed height and width, the result ``(N, O, H', W')``; N may be
    free.
    """
    high = (x.shape[2] + 2 * padding[0] - weight.shape[2]) // stride[0] + 1
    wide = (x.shape[3] + 2 * padding[1] - weight.shape[3]) // stride[1] + 1
    patches = _patches(x, weight.shape, stride, padding, (high, wide))  # (N, 1, L, K)
    filters = weight.flatten(1)  # (O, K)
    larger = _larger(patches, filters, chunk(len(filters), filters.shape[1] * high * wide))
    return (patches.sum(3) + filters.sum(1)[:, None] - 2 * larger).unflatten(2, (high, wide))


def _larger(patches: torch.Tensor, filters: torch.Tensor, size: int) -> torch.Tensor:
    """``sum_k max(P, W)``, ``(N, O, L)``, for ``size`` filters at a time."""
    count, taps = filters.shape
    if size == count:
        return torch.maximum(patches, filters.unsqueeze(1)).sum(3)
    chunks = -(-count // size)
    filled = F.pad(filters, (0, 0, 0, chunks * size - count)) if count % size else filters

    def of_chunk(nothing: torch.Tensor, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nothing.clone(), torch.maximum(patches, some).sum(3)

    _, found = scan(of_chunk, torch.zeros(1, device=filters.device), filled.reshape(chunks, size, 1, taps))
    return found.transpose(0, 1).flatten(1, 2)[:, :count]  # from (chunks, N, size, L)


def chunk(filters: int, each: int) -> int:
    """The number of filters per chunk, where each filter has ``each`` numbers per image.

    Chunks are as large as the memory bound allows, and of about equal size.
    """
    chunks = -(-filters // max(NUMBERS // each, 1))
    return -(-filters // chunks)


def _patches(
    x: torch.Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int], size: tuple[int, int]
) -> torch.Tensor:
    """``(N, 1, L, K)``, taps in the order of ``weight.flatten(1)``: rows gathered, then columns.

    A slice for each place in the kernel would need many more nodes.
    """
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    # Not torch.tensor, which has no direct ONNX form, so the export would take longer.
    rows, columns = (
        (torch.arange(taps, device=x.device)[:, None] + step * torch.arange(count, device=x.device)).flatten()
        for taps, step, count in zip(shape[2:], stride, size, strict=True)
    )
    gathered = x.index_select(2, rows).index_select(3, columns)
    parts = gathered.reshape(-1, shape[1], shape[2], size[0], shape[3], size[1])
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(-1, 1, size[0] * size[1], shape[1] * shape[2] * shape[3])

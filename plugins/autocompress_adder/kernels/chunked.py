"""Float operators with kernels on patches in the layout of ``unfold``, and plain PyTorch kernels.

They are used on CUDA, and for types without kernels in :mod:`cpu` (float64). The shape of patches
is ``(N, K, L)``, that of filters ``(O, K)``. Work is done in chunks, never for all images, or for
all places, filters and taps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional

NUMBERS = 1 << 24
"""Maximum count of patch elements or differences at once; at least one image or position."""

Distances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function that computes ``sum_k |P - W|**p``, ``(N, O, L)``, from patches and filters."""
Clipped = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function that computes the gradients of the patches, ``(N, K, L)``.

Its arguments are gradients ``(N, O, L)``, patches and filters.
"""


def forward(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], kernel: Distances
) -> torch.Tensor:
    """``-sum_k |P - W|**p`` as ``(N, O, L)``."""
    rows = weight.flatten(1)
    return torch.cat([-kernel(patches, rows) for _, patches in _unfolded(x, weight, stride, padding)])


def backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    kernel: Clipped,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of ``x`` and ``weight`` by AdderNet's two rules; ``gradient`` is ``(N, O, L)``."""
    rows = weight.flatten(1)
    of_weight = -gradient.sum((0, 2)).unsqueeze(1) * rows
    folded = []
    for part, patches in _unfolded(x, weight, stride, padding):
        slopes = gradient[part].contiguous()
        of_weight += torch.bmm(slopes, patches.transpose(1, 2)).sum(0)  # gW = G^T P - (sum_m G) W
        of_patches = kernel(slopes, patches, rows)
        folded.append(functional.fold(of_patches, x.shape[2:], weight.shape[2:], 1, tuple(padding), tuple(stride)))
    return torch.cat(folded), of_weight.view_as(weight)


def distances(p: float) -> Distances:
    """Computes in plain PyTorch: one matrix product for p = 2, ``cdist`` for p = 1."""

    def kernel(patches: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if p == 2:  # |P - W|**2 = |P|**2 + |W|**2 - 2 P.W; rounding must not leave it below 0
            squares = patches.square().sum(1, keepdim=True) + rows.square().sum(1).unsqueeze(1)
            return (squares - 2 * (rows @ patches)).clamp_(min=0)
        if p == 1:
            return torch.cdist(rows.expand(len(patches), *rows.shape), patches.transpose(1, 2).contiguous(), p=1.0)
        found = [(part - rows).abs_().pow_(p).sum(2) for part in _places(patches, rows)]
        return torch.cat(found).unflatten(0, (len(patches), -1)).transpose(1, 2)

    return kernel


def clipped(slopes: torch.Tensor, patches: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``gP[m, k] = sum_o G[m, o] * clip(W[o, k] - P[m, k], -1, 1)`` in plain PyTorch."""
    weighing, at, found = slopes.transpose(1, 2).flatten(0, 1).unsqueeze(1), 0, []
    for part in _places(patches, rows):
        apart = (rows - part).clamp_(-1, 1)
        found.append(torch.bmm(weighing[at : at + len(part)], apart).squeeze(1))
        at += len(part)
    return torch.cat(found).unflatten(0, (len(patches), -1)).transpose(1, 2)


def _unfolded(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Iterator[tuple[slice, torch.Tensor]]:
    places = (x.shape[2] + 2 * padding[0]) * (x.shape[3] + 2 * padding[1]) // (stride[0] * stride[1])
    many = max(NUMBERS // max(places * weight[0].numel(), 1), 1)
    for begin in range(0, len(x), many):
        part = slice(begin, begin + many)
        yield part, functional.unfold(x[part], weight.shape[2:], 1, tuple(padding), tuple(stride))


def _places(patches: torch.Tensor, rows: torch.Tensor) -> Sequence[torch.Tensor]:
    """Patches ``(m, 1, K)``, with m limited by memory for their differences with all filters."""
    return patches.transpose(1, 2).flatten(0, 1).unsqueeze(1).split(max(NUMBERS // rows.numel(), 1))

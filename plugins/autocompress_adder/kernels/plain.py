"""Reference implementations of all kernels in plain PyTorch.

They are slow, because they store all differences at once.

``P`` are the patches ``(N, L, K)`` of an image, ``W`` the filters ``(O, K)``, with ``K = C * height
* width``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def differences(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
    """``P - W`` for every place and filter, ``(N, L, O, K)``.

    Padded places have value 0, and are compared like any other place.
    """
    patches = functional.unfold(x, weight.shape[2:], padding=tuple(padding), stride=tuple(stride))
    return patches.transpose(1, 2).unsqueeze(2) - weight.flatten(1)


def size(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> tuple[int, int]:
    """Height and width of the output."""
    high, wide = (
        (x.shape[2 + axis] + 2 * padding[axis] - weight.shape[2 + axis]) // stride[axis] + 1 for axis in (0, 1)
    )
    return high, wide


def adder2d(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], p: float = 1.0
) -> torch.Tensor:
    """``Y[m, o] = -sum_k abs(P[m, k] - W[o, k])**p``, as images (AdderNet, section 3.1)."""
    distances = differences(x, weight, stride, padding).abs().pow(p).sum(3)
    return -distances.transpose(1, 2).reshape(len(x), len(weight), *size(x, weight, stride, padding))


def gradients(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of ``x`` and ``weight`` by AdderNet's two rules (section 3.2), for any ``p``:

    gW[o, k] = sum_m G[m, o] * (P[m, k] - W[o, k])              full precision, of the filters
    gP[m, k] = sum_o G[m, o] * clip(W[o, k] - P[m, k], -1, 1)   clipped, of the input
    """
    apart = differences(x, weight, stride, padding)
    each = gradient.flatten(2).transpose(1, 2).unsqueeze(3)
    patches = (each * (-apart).clamp(-1, 1)).sum(2).transpose(1, 2)
    folded = functional.fold(patches, x.shape[2:], weight.shape[2:], padding=tuple(padding), stride=tuple(stride))
    return folded, (each * apart).sum((0, 1)).reshape(weight.shape)


def sad2d(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], pad_value: int
) -> torch.Tensor:
    """``sum_k abs(P[m, k] - W[o, k])`` of uint8 images and filters, as int32 images.

    The padding is ``pad_value``.
    """
    high, wide = padding
    padded = functional.pad(x.long(), (wide, wide, high, high), value=pad_value).double()
    return adder2d(padded, weight.double(), stride, (0, 0)).neg().to(torch.int32)

"""Start of the search: logits of trained weights or random ones, and their memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import psutil
import torch

from autocompress.errors import TrialFailed
from autocompress.quantization.scales import SMALLEST_SCALE, along
from autocompress_slb.values import values

COPIES = 5
"""Tensors per logit in a training step: logits, gradient, two moments of AdamW, probabilities."""


def magnitude(weight: torch.Tensor, bits: int, axis: int | None) -> torch.Tensor:
    """The weight that the value 1 stands for, float32 ``(channels,)`` along ``axis``, or a scalar.

    It is ``max |W|``, for 1 bit ``mean |W|``, and never 0, since a dead channel needs a scale
    as well.

    Raises:
        TrialFailed: if a weight is not finite.
    """
    size = weight.detach().float().abs()
    dimensions = [d for d in range(size.ndim) if axis is not None and d != axis] if axis is not None else None
    result = size.mean(dimensions) if bits == 1 else size.amax(dimensions or list(range(size.ndim)))
    if not bool(torch.isfinite(result).all()):
        raise TrialFailed("a weight is not finite, so no low-bit value can be searched for it")
    return result.clamp(min=SMALLEST_SCALE * (2**bits - 1))


def trained_logits(
    weight: torch.Tensor, magnitude: torch.Tensor, bits: int, axis: int | None, sharpness: float
) -> torch.Tensor:
    """``A_i = -kappa (u - v_i)^2`` with ``u = W / magnitude``, float32 ``(m, *weight)``.

    The arg-max is the nearest value.

    ``kappa = sharpness / (v_2 - v_1)^2``, so that probabilities spread over equally many neighbours
    for every number of bits. With ``sharpness`` 2 they are Gaussians with a width of half a step.
    That is about the narrowest for which the expectation still follows u.
    """
    v = values(bits).to(weight.device)
    kappa = sharpness / float(v[1] - v[0]) ** 2
    u = weight.detach().float() / along(magnitude, weight.ndim, axis)
    return torch.stack([(u - value).square_().mul_(-kappa) for value in v])


def random_logits(shape: tuple[int, ...], bits: int, generator: torch.Generator) -> torch.Tensor:
    """He-normal logits, float32 ``(m, *shape)``, as in the published code.

    The fan-out of the initialisation counts the kernel of the weight and the values. If all logits
    were zero, all values would be equally probable. Then every weight would have the lowest value,
    and there would be no gradient.
    """
    fan_out = shape[0] * math.prod(shape[2:]) * 2**bits
    return torch.randn(2**bits, *shape, generator=generator) * math.sqrt(2 / fan_out)


# --- memory ---------------------------------------------------------------------------------------


def bytes_needed(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes for training weights of (elements, bits) each, in addition to the float model."""
    return sum(COPIES * 4 * 2**bits * elements for elements, bits in sizes)


def bytes_available(device: torch.device | None = None) -> int:
    """Free memory of ``device``; of the computer by default."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def shortage(sizes: Iterable[tuple[int, int]], device: torch.device | None = None) -> str | None:
    """A text that says why the search does not fit into memory; None if it fits."""
    needed, available = bytes_needed(sizes), bytes_available(device)
    if needed <= available:
        return None
    return f"needs {needed / 1e9:.1f} GB for logits, gradients and moments, and {available / 1e9:.1f} GB are free"

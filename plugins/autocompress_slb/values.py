"""The values of a weight, and three ways to read its logits (paper, sections 2 and 3).

    V   = { v_i = -1 + 2 (i - 1) / (m - 1),  i = 1 .. m },  m = 2^b   uniform on [-1, 1], never 0
    P_i = exp(A_i / tau) / sum_j exp(A_j / tau) = softmax_i(T A)      tau falls to 0, T = 1 / tau
    W_c = sum_i P_i v_i                                               the expectation: it trains
    W_q = v_k,  k = argmax_i A_i                                      deployed, for every T

The expectation has an exact gradient, so no estimator is needed:

    dL/dA_i = dL/dW_c * T * P_i * (v_i - W_c)                         the sum over i is 0

The axis of the values comes first, as in the paper. It is also the faster order. For a layer of
512 x 512 x 3 x 3 at 2 bits on one core, forward and backward through torch's softmax take 71 ms
with the axis first and 351 ms with the axis last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

MOST_BITS = 4
"""Logits need 2^b numbers for each weight: 256 at 8 bits."""
_CHUNK = 16384
"""Weights per chunk in the backward pass on a CPU, so that results stay in its cache."""


def odd_integers(bits: int) -> torch.Tensor:
    """``-(m-1), -(m-3), .., m-1`` as int64 ``(m,)``: the values times ``m - 1``, as for a file.

    Raises:
        ValueError: if ``bits`` is not 1 to 4.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"SLB searches among the values of 1 to {MOST_BITS} bits, not {bits}")
    last = 2**bits - 1
    return torch.arange(-last, last + 1, 2)


def values(bits: int) -> torch.Tensor:
    """V as float32 ``(m,)``."""
    return odd_integers(bits) / (2**bits - 1)


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """P in the shape of ``logits``, ``(m, *weight)``.

    16-bit logits are widened first, because ``T A`` reaches 1e7.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return torch.softmax(logits if temperature == 1 else logits * temperature, 0)


def expectation(logits: torch.Tensor, values: torch.Tensor, temperature: float) -> torch.Tensor:
    """W_c, of the weight's shape.

    Args:
        logits: A, ``(m, *weight)``.
        values: V, ``(m,)``, of the type of the logits.
        temperature: T.
    """
    with torch.autocast(logits.device.type, enabled=False):
        result: torch.Tensor = _Expectation.apply(logits, values, temperature)
    return result


def best(logits: torch.Tensor) -> torch.Tensor:
    """k counted from 0, uint8 of the weight's shape; the first of equal logits."""
    highest, index = logits[0].detach().clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for i in range(1, len(logits)):
        index.masked_fill_(logits[i] > highest, i)
        torch.maximum(highest, logits[i].detach(), out=highest)
    return index


def nearest(u: torch.Tensor, bits: int) -> torch.Tensor:
    """Index of the value nearest to ``u``, uint8; the lower one of equal distances.

    It is the arg-max of ``-(u - v_i)^2``.
    """
    last = 2**bits - 1
    return torch.ceil((u.float() + 1) * (last / 2) - 0.5).clamp_(0, last).to(torch.uint8)


class _Expectation(torch.autograd.Function):
    """Softmax and sum with a backward pass that only stores P and takes a third of the time."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, values: torch.Tensor, temperature: float) -> torch.Tensor:
        p = probabilities(logits, temperature)
        weight = (values.to(p.dtype) @ p.flatten(1)).view(logits.shape[1:])
        ctx.save_for_backward(p, values, weight)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        p, values, weight = ctx.saved_tensors
        result, values = torch.empty_like(p), values.to(p.dtype)
        rows, out = p.flatten(1), result.flatten(1)
        slope, weight = gradient.to(p.dtype).reshape(-1), weight.reshape(-1)
        chunk = _CHUNK if p.device.type == "cpu" else max(len(slope), 1)
        for start in range(0, len(slope), chunk):
            part = slice(start, start + chunk)
            scaled = slope[part] * ctx.temperature
            # T P_i (v_i - W_c) dL/dW_c, multiplied out
            torch.outer(values, scaled, out=(block := torch.empty_like(out[:, part])))
            torch.mul(block.sub_(weight[part] * scaled), rows[:, part], out=out[:, part])
        return result.to(ctx.dtype), None, None

"""Chooses the kernel: numba on the CPU, Triton on CUDA if installed, else plain PyTorch."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import torch

from autocompress_adder.kernels import chunked, layout


def forward(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], p: float
) -> torch.Tensor:
    """``-sum_k |P - W|**p`` in the wider dtype of both, in the memory format of ``x``."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    if (empty := _nothing(x, weight, stride, padding, dtype)) is not None:
        return empty
    if p < 2 and _numba(x, dtype):
        from autocompress_adder.kernels import cpu

        return cpu.forward(x, weight, stride, padding, p).to(dtype)
    kernel = chunked.distances(p)
    if p == 1 and _triton(x, dtype):
        from autocompress_adder.kernels import cuda

        kernel = cuda.distances
    found = chunked.forward(_wide(x, dtype), _wide(weight, dtype), stride, padding, kernel).to(dtype)
    shape = layout.geometry(x, weight, stride, padding)
    return found.unflatten(2, (shape.high, shape.wide)).contiguous(memory_format=layout.memory_format(x))


def backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``x`` and ``weight``, in their memory formats; None if not ``needed``."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    if not weight.numel() or not gradient.numel():
        found = (torch.zeros_like(x), torch.zeros_like(weight))
    elif _numba(x, dtype):
        from autocompress_adder.kernels import cpu

        return cpu.backward(gradient, x, weight, stride, padding, needed)
    else:
        kernel = chunked.clipped
        if _triton(x, dtype):
            from autocompress_adder.kernels import cuda

            kernel = cuda.clipped
        wide = (_wide(gradient, dtype).flatten(2), _wide(x, dtype), _wide(weight, dtype))
        found = chunked.backward(*wide, stride, padding, kernel)
    of_x, of_weight = (
        one.contiguous(memory_format=layout.memory_format(of)) if wanted else None
        for one, of, wanted in zip(found, (x, weight), needed, strict=True)
    )
    return of_x, of_weight


def sad(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], pad_value: int
) -> torch.Tensor:
    """``sum_k abs(P - W)`` of uint8 as int32, in the format of ``x``; computed on the CPU."""
    if (empty := _nothing(x, weight, stride, padding, torch.int32)) is not None:
        return empty
    from autocompress_adder.kernels import cpu

    return cpu.integers(x.cpu(), weight.cpu(), stride, padding, pad_value).to(x.device)


def _nothing(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dtype: torch.dtype
) -> torch.Tensor | None:
    """Zeros if there are no images, filters or taps; else None."""
    shape = layout.geometry(x, weight, stride, padding)
    size = (len(x), len(weight), shape.high, shape.wide)
    if weight.numel() and 0 not in size:
        return None
    return x.new_zeros(size, dtype=dtype).contiguous(memory_format=layout.memory_format(x))


def _numba(x: torch.Tensor, dtype: torch.dtype) -> bool:
    return x.device.type == "cpu" and dtype != torch.float64


def _triton(x: torch.Tensor, dtype: torch.dtype) -> bool:
    return x.device.type == "cuda" and dtype != torch.float64 and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _wide(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.detach().to(torch.promote_types(dtype, torch.float32))

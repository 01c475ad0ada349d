"""AdderNet's operators in torch (Chen et al., CVPR 2020), for training and for integers.

``P (M, K)`` are the patches of a batch of images, ``W (O, K)`` the filters, ``G (M, O)`` the
gradient of the output. ``torch.export`` and ``torch.compile`` see each operator as one node. numba
compiles the CPU kernels at the first call (some seconds, kept on disk for the next process); they
use ``torch.get_num_threads()`` threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autocompress_adder.kernels import layout, select


@torch.library.custom_op(
    "autocompress_adder::adder2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, int[] stride, int[] padding, float p=1.0) -> Tensor",
)
def adder2d(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], p: float = 1.0
) -> torch.Tensor:
    """``Y[m, o] = -sum_k abs(P[m, k] - W[o, k])**p`` (section 3.1, equation 2).

    ``p`` is as in Winograd AdderNet's schedule from l2 to l1.

    For every ``p`` the gradients are AdderNet's (section 3.2), as in Winograd AdderNet. They differ
    from the true gradients on purpose; at p = 2, both are equal up to the clip and a factor of 2.

        gW[o, k] = sum_m G[m, o] * (P[m, k] - W[o, k])              full precision, no sign (eq. 5)
        gP[m, k] = sum_o G[m, o] * clip(W[o, k] - P[m, k], -1, 1)   HardTanh (eq. 6 and 7)

    Second derivatives do not exist. 16-bit inputs are summed in float32, and the sum is rounded to
    16 bits. With float32 filters the output stays float32, which is more accurate: its mean is far
    from 0 (about -K), and only its deviations from the mean matter.

    Args:
        x: ``(N, C, H, W)``, any float dtype.
        weight: ``(O, C, height, width)``, any float dtype. torch's channels-last format is
            quickest.
        stride, padding: vertical and horizontal. Distances to padding, which is 0, are included.
        p: exponent of the distance, from 1 to 2.

    Returns:
        ``(N, O, H', W')`` in the wider of the two dtypes and in the memory format of ``x``.

    Raises:
        ValueError: if shapes, stride, padding or ``p`` do not fit.
    """
    _check(x, weight, stride, padding)
    _check_exponent(p)
    return select.forward(x, weight, stride, padding, p)


@adder2d.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], p: float = 1.0
) -> torch.Tensor:
    _check(x, weight, stride, padding)
    _check_exponent(p)
    return _output(x, weight, stride, padding, torch.promote_types(x.dtype, weight.dtype))


@torch.library.custom_op(
    "autocompress_adder::adder2d_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor weight, int[] stride, int[] padding, bool[] needed) -> (Tensor, Tensor)",
)
def adder2d_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of ``x`` and ``weight`` of :func:`adder2d`; empty if not ``needed``."""
    found = select.backward(gradient, x, weight, stride, padding, needed)
    return tuple(  # type: ignore[return-value]
        of.new_empty(0) if one is None else one.to(of.dtype) for one, of in zip(found, (x, weight), strict=True)
    )


@adder2d_backward.register_fake
def _(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    del gradient, stride, padding
    return tuple(  # type: ignore[return-value]
        torch.empty_like(of, memory_format=layout.memory_format(of)) if wanted else of.new_empty(0)
        for of, wanted in zip((x, weight), needed, strict=True)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    x, weight, ctx.stride, ctx.padding, _ = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:2])
    found = adder2d_backward(gradient, *ctx.saved_tensors, ctx.stride, ctx.padding, needed)
    return (*(one if wanted else None for one, wanted in zip(found, needed, strict=True)), None, None, None)


adder2d.register_autograd(_gradients, setup_context=_keep)


@torch.library.custom_op(
    "autocompress_adder::sad2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, int[] stride, int[] padding, int pad_value) -> Tensor",
)
def sad2d(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], pad_value: int
) -> torch.Tensor:
    """``sum_k abs(P[m, k] - W[o, k])`` of integers, exact, without a gradient.

    This is minus the output of an adder layer, in steps of the common scale of inputs and filters.

    Adding the same number to both sides does not change a distance. Signed numbers can therefore be
    given as uint8 with one zero point.

    Args:
        x: uint8 ``(N, C, H, W)``.
        weight: uint8 ``(O, C, height, width)``. Channels last is quickest. It is not copied where
            K is a multiple of the vector length.
        stride, padding: vertical and horizontal.
        pad_value: value of the padding, 0 to 255: the zero point.

    Returns:
        int32 ``(N, O, H', W')``, in the memory format of ``x``. K may be 8,421,504 at most.

    Raises:
        ValueError: if shapes, dtypes, stride, padding or ``pad_value`` do not fit.
    """
    _check_integers(x, weight, stride, padding, pad_value)
    return select.sad(x, weight, stride, padding, pad_value)


@sad2d.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], pad_value: int
) -> torch.Tensor:
    _check_integers(x, weight, stride, padding, pad_value)
    return _output(x, weight, stride, padding, torch.int32)


def _output(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    shape = layout.geometry(x, weight, stride, padding)
    return torch.empty(
        (x.shape[0], weight.shape[0], shape.high, shape.wide),
        dtype=dtype,
        device=x.device,
        memory_format=layout.memory_format(x),
    )


def _check(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"an adder layer needs images (N, C, H, W) and filters (O, C, h, w) of as many channels; "
            f"these have shapes {tuple(x.shape)} and {tuple(weight.shape)}."
        )
    if len(stride) != 2 or len(padding) != 2 or min(stride) < 1 or min(padding) < 0:
        raise ValueError(f"stride and padding need two numbers each, at least 1 and 0; got {stride} and {padding}.")
    if any(x.shape[2 + axis] + 2 * padding[axis] < weight.shape[2 + axis] for axis in (0, 1)):
        raise ValueError(f"filters {tuple(weight.shape)} are larger than padded images {tuple(x.shape)}.")


def _check_exponent(p: float) -> None:
    if not 1 <= p <= 2:
        raise ValueError(f"p must be from 1 to 2, not {p}.")


def _check_integers(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], pad_value: int
) -> None:
    _check(x, weight, stride, padding)
    if x.dtype != torch.uint8 or weight.dtype != torch.uint8 or not 0 <= pad_value <= 255:
        raise ValueError(
            "distances of integers need uint8 and a padding from 0 to 255, "
            f"not {x.dtype} with {weight.dtype} and {pad_value}."
        )

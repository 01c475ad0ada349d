"""Operators that represent integers in a float graph.

Each has a torch kernel here and an ONNX form in ``autocompress.export``.

``fake_quant`` is for calibration and training: its parameters are tensors, and it has a gradient.
A hardened network uses ``round_trip`` and ``dequantize``.
"""

from __future__ import annotations

from typing import Any

import torch

from autocompress.quantization.scales import along

_HALF = 0.5 + 1e-4
"""Half a step, plus the error of float32 in 255 steps (about 6e-5).

The zero point of an asymmetric grid is rounded, so an end of the observed range may be exactly half
a step outside.
"""


@torch.library.custom_op(
    "autocompress::fake_quant",
    mutates_args=(),
    schema="(Tensor x, Tensor scale, Tensor zero_point, int low, int high, int? axis=None) -> Tensor",
)
def fake_quant(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int, axis: int | None = None
) -> torch.Tensor:
    """``(clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale``, eq. 12-13.

    Rounds half to even, as ONNX's QuantizeLinear does. The gradient of ``x`` passes straight
    through where the integer before clamping lies in ``low .. high``, and is zero elsewhere (eq.
    14-15). As in torch's own ``fake_quantize``, a value less than half a step beyond the range
    still has a gradient. ``scale`` and ``zero_point`` get none.

    Args:
        x: float tensor.
        scale: float, scalar or one per index of ``axis``.
        zero_point: any dtype, same shape as ``scale``.
        low, high: the integers' range, both included.
        axis: axis of the channels; None for one scale per tensor.

    Returns:
        A tensor of at least float32, because 16 bits are too few for integer times scale.
    """
    wide = widened(x)
    step, zero = (along(values, x.ndim, axis).to(wide.dtype) for values in (scale, zero_point))
    return (wide / step).round_().add_(zero).clamp_(low, high).sub_(zero).mul_(step)


def widened(x: torch.Tensor) -> torch.Tensor:
    """``x`` in at least float32.

    Under autocast, activations have 16 bits, which are too few for the levels of a grid.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@fake_quant.register_fake
def _(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int, axis: int | None = None
) -> torch.Tensor:
    del scale, zero_point, low, high, axis
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    x, scale, zero_point, low, high, axis = inputs
    ctx.save_for_backward(x, scale, zero_point)
    ctx.low, ctx.high, ctx.axis = low, high, axis


def _straight_through(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, scale, zero_point = ctx.saved_tensors
    narrow, x = x.dtype, widened(x)
    step, zero = (along(values, x.ndim, ctx.axis).to(x.dtype) for values in (scale, zero_point))
    # Compared in steps: low * step may differ by an ulp from the value that decided the step, and
    # then the largest weight of a channel would get no gradient.
    place = x / step + zero
    inside = (place >= ctx.low - _HALF) & (place <= ctx.high + _HALF)
    return (gradient * inside).to(narrow), None, None, None, None, None


fake_quant.register_autograd(_straight_through, setup_context=_keep)


@torch.library.custom_op(
    "autocompress::round_trip",
    mutates_args=(),
    schema="(Tensor x, float scale, int zero_point, int low, int high) -> Tensor",
)
def round_trip(x: torch.Tensor, scale: float, zero_point: int, low: int, high: int) -> torch.Tensor:
    """Float to uint8 and back with constants: QuantizeLinear, DequantizeLinear in the file.

    The same numbers as :func:`fake_quant`.
    """
    x = widened(x)
    step = torch.tensor(scale, dtype=x.dtype)  # a float32 divisor, as in the file, not a double
    return (x / step).round_().add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(step)


@round_trip.register_fake
def _(x: torch.Tensor, scale: float, zero_point: int, low: int, high: int) -> torch.Tensor:
    del scale, zero_point, low, high
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op(
    "autocompress::hard_sigmoid",
    mutates_args=(),
    schema="(Tensor x, float scale, int zero_point, int low, int high) -> Tensor",
)
def hard_sigmoid(x: torch.Tensor, scale: float, zero_point: int, low: int, high: int) -> torch.Tensor:
    """``clip(x + 3, 0, 6) / 6`` on the grid of :func:`round_trip` with ends 0 and 1.

    The runtime has an integer kernel for an addition, but none for HardSigmoid. Saturation of the
    grid clips, and dequantizing with a sixth of the step divides.

    Args:
        x: float tensor on a grid.
        scale: step of the result; at most ``1 / high``.
        zero_point, low: 0.
        high: the largest integer.
    """
    x = widened(x)
    step = torch.tensor(scale, dtype=x.dtype)
    integers = ((x + 3) / (6 * step)).round_().add_(zero_point).clamp_(low, high)
    return integers.sub_(zero_point).mul_(step)


@hard_sigmoid.register_fake
def _(x: torch.Tensor, scale: float, zero_point: int, low: int, high: int) -> torch.Tensor:
    del scale, zero_point, low, high
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op(
    "autocompress::dequantize",
    mutates_args=(),
    schema="(Tensor integers, Tensor scale, Tensor? zero_point=None, int? axis=None) -> Tensor",
)
def dequantize(
    integers: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None, axis: int | None = None
) -> torch.Tensor:
    """``(integers - zero_point) * scale`` as float32: DequantizeLinear of an initializer.

    Args:
        integers: int8 weights or int32 biases.
        scale: float32, scalar or one per index of ``axis``.
        zero_point: the dtype of ``integers``, the shape of ``scale``; None for zero.
        axis: axis of the channels; None for one scale per tensor.
    """
    value = integers.to(scale.dtype)
    if zero_point is not None:
        value = value - along(zero_point, value.ndim, axis)
    return value * along(scale, value.ndim, axis)


@dequantize.register_fake
def _(
    integers: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None, axis: int | None = None
) -> torch.Tensor:
    del zero_point, axis
    return torch.empty_like(integers, dtype=scale.dtype)

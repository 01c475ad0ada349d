"""Hardened convolution and linear layers; ``fakelayers`` has the trainable ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.contract import Hardened
from autocompress.quantization.fakelayers import INT32, FakeLayer, FakeQuantConv2d, FakeQuantLinear
from autocompress.quantization.folding import affine
from autocompress.quantization.ops import dequantize
from autocompress.quantization.scales import SMALLEST_SCALE, along


class _Hardened(nn.Module):
    """Integers of a finished layer: ``weight`` int8 with ``weight_scale``, and ``bias``.

    ``bias`` is int32 with ``bias_scale`` (``weight_scale`` times the scale of the input), or float
    if the input is not quantized.
    """

    weight_bits: int
    weight_low: int
    weight_step: int
    """The integers are ``weight_low + index * weight_step``; the file stores the index.

    An index has ``weight_bits`` bits.
    """
    input_bits: int
    """Bits of the tensor that the layer reads; 32 for float."""
    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor
    bias: torch.Tensor | None
    bias_scale: torch.Tensor | None

    def __init__(self, layer: FakeLayer, hardened: Hardened, input_scale: float | None) -> None:
        super().__init__()
        if hardened.integers is None:
            raise ValueError("a layer needs hardened integers, and this is the result for an activation")
        bias = layer.deployed_bias()
        if layer.norm is not None and not layer.weight_quantizer.folds_norm:
            hardened = _with_norm(hardened, layer.norm)
        if bias is not None and input_scale is not None:
            hardened = _make_room_for_bias(hardened, bias.detach(), input_scale)
        assert hardened.integers is not None
        self.axis = hardened.channel_axis
        self.weight_bits, self.weight_low, self.weight_step = hardened.bits, hardened.low, hardened.step
        self.input_bits = 32
        scale = hardened.scale.detach().float()
        self.register_buffer("weight", hardened.integers.detach().to(torch.int8).contiguous())
        self.register_buffer("weight_scale", scale)
        # A bias of zeros is stored too: without it, the runtime computes Gemm in float.
        self.register_buffer(
            "weight_zero_point", hardened.zero_point.detach().to(torch.int8).expand(scale.shape).clone()
        )
        self._set_bias(bias, input_scale)

    def _set_bias(self, bias: torch.Tensor | None, input_scale: float | None) -> None:
        self.register_buffer("bias", None)
        self.register_buffer("bias_scale", None)
        if bias is None:
            return
        if input_scale is None:
            self.bias = bias.detach().clone()
            return
        scale = (self.weight_scale * torch.tensor(input_scale, dtype=torch.float32)).expand(bias.shape).contiguous()
        integers = (bias.detach().double() / scale.double()).round().clamp(-INT32, INT32)
        self.bias, self.bias_scale = integers.to(torch.int32), scale

    def float_weight(self) -> torch.Tensor:
        """The float weight that the integers represent."""
        return dequantize(self.weight, self.weight_scale, self.weight_zero_point, self.axis)

    def float_bias(self) -> torch.Tensor | None:
        """The float bias that the integers represent."""
        if self.bias is None or self.bias_scale is None:
            return self.bias
        return dequantize(self.bias, self.bias_scale, None, 0)


class HardenedConv2d(_Hardened):
    """A convolution with integer weights and float inputs and outputs; QLinearConv in files."""

    def __init__(self, layer: FakeQuantConv2d, hardened: Hardened, input_scale: float | None) -> None:
        super().__init__(layer, hardened, input_scale)
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding mode {layer.padding_mode} has no integer form")
        self.in_channels, self.out_channels, self.groups = layer.in_channels, layer.out_channels, layer.groups
        self.kernel_size = layer.kernel_size
        self.geometry: dict[str, Any] = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.float_weight(), self.float_bias(), **self.geometry)


class HardenedLinear(_Hardened):
    """A linear layer on integer weights, ``(..., in)`` to ``(..., out)`` floats; QGemm in files."""

    def __init__(self, layer: FakeQuantLinear, hardened: Hardened, input_scale: float | None) -> None:
        super().__init__(layer, hardened, input_scale)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Only Gemm has an integer bias, and it takes two dimensions. A matrix product with an
        # addition takes twice as long.
        rows = x if x.ndim == 2 else x.flatten(0, -2)
        y = F.linear(rows, self.float_weight(), self.float_bias())
        return y if x.ndim == 2 else y.unflatten(0, x.shape[:-1])


def harden_layer(layer: FakeLayer, hardened: Hardened, input_scale: float | None) -> HardenedConv2d | HardenedLinear:
    """The hardened form of ``layer``.

    ``input_scale`` is the scale of its input; None if the input is float.

    Raises:
        ValueError: if the layer has no integer form.
    """
    if isinstance(layer, FakeQuantConv2d):
        return HardenedConv2d(layer, hardened, input_scale)
    assert isinstance(layer, FakeQuantLinear)
    return HardenedLinear(layer, hardened, input_scale)


def _with_norm(hardened: Hardened, norm: nn.Module) -> Hardened:
    """The integers of a layer with the batch norm behind it folded into the scales.

    The factor is ``gamma / sigma`` for each output channel. The integers get the sign of the
    factor, because a scale is positive.
    """
    assert hardened.integers is not None
    if bool((hardened.zero_point != 0).any()):
        raise ValueError("a batch norm can only be folded into symmetric integers")
    factor = affine(norm)[0].detach().to(hardened.scale)
    scale = (hardened.scale * factor.abs()).clamp(min=SMALLEST_SCALE)
    flip = torch.where(factor < 0, -1, 1).to(hardened.integers.dtype)
    return replace(
        hardened,
        scale=scale,
        zero_point=torch.zeros_like(scale, dtype=torch.int32),
        integers=hardened.integers * along(flip, hardened.integers.ndim, 0),
        channel_axis=0,
    )


def _make_room_for_bias(hardened: Hardened, bias: torch.Tensor, input_scale: float) -> Hardened:
    """Raises the weight scales of channels whose bias would not fit int32.

    The weights of such channels are tiny.
    """
    scale, integers = hardened.scale.detach().float(), hardened.integers
    assert integers is not None
    least = bias.abs().double() / (INT32 * 0.99) / input_scale
    if hardened.channel_axis is None:
        least = least.max()
    if bool((scale.double() >= least).all()):
        return hardened
    wider = torch.maximum(scale.double(), least).float()
    if hardened.step == 1:
        zero = along(hardened.zero_point, integers.ndim, hardened.channel_axis)
        ratio = along(scale / wider, integers.ndim, hardened.channel_axis)
        integers = ((integers - zero) * ratio).round() + zero
    # If zero is not among the integers, they stay as they are: in such a channel, they are
    # negligible beside the bias.
    return replace(hardened, scale=wider, integers=integers)

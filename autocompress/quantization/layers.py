"""Convolution and linear layers with quantized weights: in training (float, simulated) and hardened (integers)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.contract import FakeQuantizer, Hardened
from autocompress.quantization.ops import dequantize, fake_quant

_INT32 = 2**31 - 1


class FakeQuantConv2d(nn.Conv2d):
    """A convolution that computes with ``weight_quantizer(weight)``; made by :func:`with_fake_weight`."""

    weight_quantizer: FakeQuantizer
    input_quantizer: FakeQuantizer | None = None
    """Of the tensor that the layer reads; not a child, the network holds it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight_quantizer(self.weight), _fake_bias(self))


class FakeQuantLinear(nn.Linear):
    """A linear layer that computes with ``weight_quantizer(weight)``; made by :func:`with_fake_weight`."""

    weight_quantizer: FakeQuantizer
    input_quantizer: FakeQuantizer | None = None
    """Of the tensor that the layer reads; not a child, the network holds it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight_quantizer(self.weight), _fake_bias(self))


def _fake_bias(layer: FakeQuantConv2d | FakeQuantLinear) -> torch.Tensor | None:
    """The bias in steps of the accumulator, as int32 will hold it. Coarser than it sounds: left out, one label in two
    hundred changes. Quantizers that show no ``scale`` leave it in float."""
    of_weight, of_input = _scale_of(layer.weight_quantizer), _scale_of(layer.input_quantizer)
    if layer.bias is None or of_weight is None or of_input is None:
        return layer.bias
    step = (of_weight * of_input).detach().expand(layer.bias.shape)
    rounded = fake_quant(layer.bias, step.clamp(min=1e-30), torch.zeros_like(step), -_INT32, _INT32, 0)
    return torch.where(step > 0, rounded, layer.bias)  # a scale of 0: the weight's range is not known yet


def _scale_of(fake: FakeQuantizer | None) -> torch.Tensor | None:
    if fake is None or fake.observing or not fake.enabled:
        return None
    scale = getattr(fake, "scale", None)
    return scale if isinstance(scale, torch.Tensor) else None


FAKE_LAYERS = (FakeQuantConv2d, FakeQuantLinear)


def with_fake_weight(layer: nn.Conv2d | nn.Linear, quantizer: FakeQuantizer) -> nn.Module:
    """``layer`` with its own parameters under their own names, computing with the fake-quantized weight."""
    fake = object.__new__(FakeQuantConv2d if isinstance(layer, nn.Conv2d) else FakeQuantLinear)
    fake.__dict__ = dict(layer.__dict__)
    fake._modules = dict(layer._modules)
    fake.weight_quantizer = quantizer
    return fake


class _Hardened(nn.Module):
    """Integers of a finished layer: ``weight`` int8, ``weight_scale``, and ``bias`` int32 with scale ``bias_scale``
    (``weight_scale`` times the input's scale), or a float ``bias`` where the input is not quantized."""

    weight_bits: int
    input_bits: int
    """Of the tensor that the layer reads; 32 for float."""
    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor
    bias: torch.Tensor | None
    bias_scale: torch.Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, hardened: Hardened, input_scale: float | None) -> None:
        super().__init__()
        if hardened.integers is None:
            raise ValueError("a layer is hardened with integers; this is an activation's result")
        self.axis = hardened.channel_axis
        self.weight_bits = hardened.bits
        self.input_bits = 32
        integers, scale = hardened.integers.detach(), hardened.scale.detach().float()
        if layer.bias is not None and input_scale is not None:
            integers, scale = _make_room_for_bias(integers, scale, layer.bias.detach(), input_scale, self.axis)
        self.register_buffer("weight", integers.to(torch.int8).contiguous())
        self.register_buffer("weight_scale", scale)
        # Zeros too are written out: without them the runtime leaves Gemm in float.
        self.register_buffer(
            "weight_zero_point", hardened.zero_point.detach().to(torch.int8).expand(scale.shape).clone()
        )
        self._set_bias(layer.bias, input_scale)

    def _set_bias(self, bias: torch.Tensor | None, input_scale: float | None) -> None:
        self.register_buffer("bias", None)
        self.register_buffer("bias_scale", None)
        if bias is None:
            return
        if input_scale is None:
            self.bias = bias.detach().clone()
            return
        scale = (self.weight_scale * torch.tensor(input_scale, dtype=torch.float32)).expand(bias.shape).contiguous()
        integers = (bias.detach().double() / scale.double()).round().clamp(-_INT32, _INT32)
        self.bias, self.bias_scale = integers.to(torch.int32), scale

    def float_weight(self) -> torch.Tensor:
        """The weight that the integers stand for."""
        return dequantize(self.weight, self.weight_scale, self.weight_zero_point, self.axis)

    def float_bias(self) -> torch.Tensor | None:
        """The bias that the integers stand for."""
        if self.bias is None or self.bias_scale is None:
            return self.bias
        return dequantize(self.bias, self.bias_scale, None, 0)


class HardenedConv2d(_Hardened):
    """A convolution on integer weights, ``(N, C, H, W)`` float in and out; QLinearConv in the file."""

    def __init__(self, layer: nn.Conv2d, hardened: Hardened, input_scale: float | None) -> None:
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
    """A linear layer on integer weights, ``(..., in)`` float in and ``(..., out)`` out; QGemm in the file."""

    def __init__(self, layer: nn.Linear, hardened: Hardened, input_scale: float | None) -> None:
        super().__init__(layer, hardened, input_scale)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Gemm takes two dimensions, and alone has an integer bias: a matrix product and an addition cost twice.
        rows = x if x.ndim == 2 else x.flatten(0, -2)
        y = F.linear(rows, self.float_weight(), self.float_bias())
        return y if x.ndim == 2 else y.unflatten(0, x.shape[:-1])


def harden_layer(layer: nn.Conv2d | nn.Linear, hardened: Hardened, input_scale: float | None) -> nn.Module:
    """The hardened form of ``layer``; ``input_scale`` is its input's, None where that stays in float."""
    kind = HardenedConv2d if isinstance(layer, nn.Conv2d) else HardenedLinear
    return kind(layer, hardened, input_scale)  # type: ignore[arg-type]


def _make_room_for_bias(
    integers: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, input_scale: float, axis: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raises the weight scales of channels whose bias would not fit int32: their weights are next to nothing."""
    least = bias.abs().double() / (_INT32 * 0.99) / input_scale
    if axis is None:
        least = least.max()
    if bool((scale.double() >= least).all()):
        return integers, scale
    wider = torch.maximum(scale.double(), least).float()
    ratio = scale / wider
    shape = [-1] + [1] * (integers.ndim - 1)
    return (integers * (ratio.reshape(shape) if axis is not None else ratio)).round(), wider

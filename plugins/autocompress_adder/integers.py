"""The adder layer in integers.

|x - w| is only homogeneous under a common scale: |s x - s w| = s |x - w|. So the weight uses the
grid of the tensor that the layer reads, with its scale and zero point. Then distances of integers
are distances of numbers:

    |x - w| = s |(x_i - z) - (w_i - z)| = s |x_i - w_i|

The range [low, high] of this grid may exclude some weights. Clipping them loses nothing
(AdderNet 2.0): for x within [low, high],

    |x - w| = |x - clip(w)| + |w - clip(w)|,     so
    -sum |X - W| = -sum |X - clip(W)| - sum |W - clip(W)|,

and the last sum is a constant for each filter, which is added to the bias.
"""

from __future__ import annotations

import torch
from torch import nn

from autocompress.contract import FakeQuantizer, Grid
from autocompress.quantization.folding import affine
from autocompress.quantization.ops import dequantize, fake_quant
from autocompress_adder import ops
from autocompress_adder.layer import AdderConv2d


def cut_off(weight: torch.Tensor, low: torch.Tensor | float, high: torch.Tensor | float) -> torch.Tensor:
    """``-sum abs(W - clip(W))`` for each filter, ``(O,)``.

    It is the difference of -sum abs(X - W) and -sum abs(X - clip(W)).
    """
    return -(weight - weight.clamp(low, high)).abs().flatten(1).sum(1)  # type: ignore[arg-type]


class SimulatedAdder2d(AdderConv2d):
    """An adder layer that computes with its weight on the grid of ``input_quantizer``, and trains.

    See :func:`simulated`. While the input is in float, the weight is too.
    """

    input_quantizer: FakeQuantizer | None = None
    """The quantizer of its input; it is a child of the network, not of the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        found = _grid_of(self.input_quantizer)
        if found is not None:
            scale, zero_point, low, high = found
            # Gradients are those of a float layer, G^T P - (sum G) W, also for clipped weights:
            # behind a ReLU, these are all negative weights. Only the gradient of the input is
            # clipped (section 3.2 of the paper).
            with torch.no_grad():
                cut = cut_off(weight, (low - zero_point) * scale, (high - zero_point) * scale)
                rounding = fake_quant(weight, scale, zero_point, low, high) - weight
            weight, bias = weight + rounding, bias + cut
        y = self.distances(x, weight) + bias[:, None, None]
        return y if self.norm is None else self.norm(y)


def simulated(layer: AdderConv2d) -> SimulatedAdder2d:
    """``layer`` with its own parameters, computing with integers in float."""
    fake = object.__new__(SimulatedAdder2d)
    fake.__dict__ = dict(layer.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        fake.__dict__[registry] = dict(layer.__dict__[registry])
    fake.finish()
    return fake


class HardenedAdder2d(AdderConv2d):
    """A finished adder layer: ``gain[o] * -sum_k |P[m, k] - W[o, k]| + offset[o]``.

    ``weight`` has codes, uint8 ``(O, C, d, d)``, for ``(code - zero_point) * scale`` with the scale
    and zero point of the input. ``gain`` and ``offset``, float32 ``(O,)``, contain the bias and the
    norm behind the layer. Inputs are numbers of that grid, in float. Here distances are computed
    exactly from their codes; in files, from the numbers.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(self, layer: SimulatedAdder2d, grid: Grid) -> None:
        nn.Module.__init__(self)
        self._set_geometry(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        self.norm, self._zero = None, grid.zero_point
        self.weight_bits = self.input_bits = grid.bits
        weight, bias = layer.weight.detach().float(), layer.bias.detach().float()
        scale, zero = torch.tensor(grid.scale, dtype=torch.float32), grid.zero_point
        codes = (weight / scale).round().add(zero).clamp(grid.low, grid.high)
        bias = bias + cut_off(weight, float((grid.low - zero) * scale), float((grid.high - zero) * scale))
        gain = torch.ones_like(bias)
        if layer.norm is not None:
            factor, offset = affine(layer.norm)  # y = factor * (adder + bias) + offset
            gain, bias = factor.detach(), factor.detach() * bias + offset.detach()
        self.register_buffer("weight", codes.to(torch.uint8).contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.tensor(zero, dtype=torch.uint8))
        self.register_buffer("gain", gain.clone())
        self.register_buffer("offset", bias.clone())

    def float_weight(self) -> torch.Tensor:
        """The float weight that the codes represent."""
        weight: torch.Tensor = dequantize(self.weight, self.scale, self.zero_point)
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            y = self.distances(x, self.float_weight())
        else:
            codes = (x / self.scale).round().add(self.zero_point).clamp(0, 255).to(torch.uint8)
            sums = ops.sad2d(codes, self.weight, list(self.stride), list(self.padding), self._zero)
            y = -self.scale * sums
        return y * self.gain[:, None, None] + self.offset[:, None, None]


def _grid_of(fake: FakeQuantizer | None) -> tuple[torch.Tensor, torch.Tensor, int, int] | None:
    """Scale, zero point and the ends of the integers; None while the tensor is in float."""
    if fake is None or fake.observing or not fake.enabled:
        return None
    scale, codes = getattr(fake, "scale", None), getattr(fake, "codes", None)
    if (
        not isinstance(scale, torch.Tensor) or codes is None
    ):  # of another plugin: only attributes that every quantizer may have
        grid = fake.harden()
        return grid.scale.detach(), grid.zero_point.detach(), grid.low, grid.high
    zero_point = getattr(fake, "zero_point", None)  # quantizers of nonnegative tensors have none
    if not isinstance(zero_point, torch.Tensor):
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return scale.detach(), zero_point, codes.low, codes.high

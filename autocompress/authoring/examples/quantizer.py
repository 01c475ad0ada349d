"""A quantizer: weights of 8 bits whose scales are powers of two."""

from __future__ import annotations

import torch
from torch import nn

from autocompress.contract import (
    Context,
    FakeQuantizer,
    Hardened,
    Method,
    Params,
    Quantizer,
    Space,
    TensorSpec,
    hookimpl,
)


class PowerOfTwo(FakeQuantizer):
    """q = clamp(round(w / s), -127, 127), s = 2^ceil(log2(max|w| / 127))."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rounded weight; its gradient passes straight through (Bengio et al., 2013)."""
        if self.observing or not self.enabled:
            return x
        x = x.float()
        scale = self._scale(x)
        rounded = (x / scale).round().clamp(-127, 127) * scale
        return x + (rounded - x).detach()

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """The integers and the scale that the file holds."""
        assert weight is not None
        scale = self._scale(weight.detach().float())
        integers = (weight.detach().float() / scale).round().clamp(-127, 127).to(torch.int8)
        return Hardened(scale, torch.zeros((), dtype=torch.int32), -127, 127, 8, integers)

    @staticmethod
    def _scale(weight: torch.Tensor) -> torch.Tensor:
        return 2 ** (weight.detach().abs().amax().clamp(min=1e-8) / 127).log2().ceil()


class Example(Quantizer):
    """Scales that are powers of two: a device without a multiplier shifts."""

    name = "example"
    version = "1"
    reference = "author, title, venue"
    weight_bits = (8,)
    activation_bits = ()

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """No parameters."""
        return {}

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """The fake-quantizer of one weight."""
        return PowerOfTwo(spec)


@hookimpl
def autocompress_methods() -> list[Method]:
    """The methods of this plugin."""
    return [Example()]

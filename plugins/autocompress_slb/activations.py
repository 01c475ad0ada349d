"""Quantizers of nonnegative activations: DoReFa (in the paper) and PACT (in its code).

DoReFa (Zhou et al., arXiv 1606.06160) with k bits, n = 2^k - 1:

    x_q = round(n clip(x, 0, 1)) / n
    gradient: 1 inside [0, 1], 0 outside

PACT (Choi et al., arXiv 1805.06085) with a learned alpha:

    x_q = round(clip(x, 0, alpha) n / alpha) alpha / n
    gradient: dx = 1 where 0 <= x < alpha, else 0; dalpha = sum of 1 where x >= alpha
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.errors import TrialFailed
from autocompress.quantization.histograms import MeanSquaredError
from autocompress.quantization.ops import fake_quant, widened
from autocompress.quantization.scales import unsigned_levels

SMALLEST_ALPHA = 1e-4


class _Unsigned(FakeQuantizer):
    """Common part of both: the integers ``0 .. n``, zero point 0."""

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        if not spec.nonnegative:
            raise ValueError(f"'{spec.name}' can be negative, and this quantizer would cut that off")
        self.codes = unsigned_levels(spec.bits)

    @property
    def scale(self) -> torch.Tensor:
        """The scale of the integers, float32, scalar."""
        raise NotImplementedError

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """The grid for the file."""
        del weight
        scale = self.scale.detach().clone()
        return Hardened(scale, torch.zeros_like(scale, dtype=torch.int32), 0, self.codes.high, self.spec.bits)


class DoReFaFakeQuantizer(_Unsigned):
    """Clips at 1, for networks that train with it from the start."""

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        self.register_buffer("step", torch.tensor(1.0 / self.codes.high), persistent=False)
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int32), persistent=False)

    @property
    def scale(self) -> torch.Tensor:
        """Size of a step, 1 / n, with n = 2^bits - 1 steps from 0 to 1."""
        return self.step  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing or not self.enabled:
            return x
        # In the paper there is a gradient from 0 to 1, including both ends. That of fake_quant
        # reaches half a step further, and torch's clamp has none at the ends.
        inside = (x >= 0) & (x <= 1)
        clipped = torch.where(inside, x, x.detach().clamp(0, 1))
        result: torch.Tensor = fake_quant(clipped, self.step, self.zero, 0, self.codes.high)
        return result


class PactFakeQuantizer(_Unsigned):
    """Clips at ``alpha``, which is learned.

    The first alpha has the smallest squared error on the calibration images. (The paper of PACT
    starts at a large value, and trains long.)

    Args:
        spec: a tensor that cannot be negative.
        images: number of images to observe; later ones are ignored.
    """

    def __init__(self, spec: TensorSpec, images: int = 256) -> None:
        super().__init__(spec)
        self.alpha = nn.Parameter(torch.tensor(6.0))
        self.observer = MeanSquaredError(self.codes)
        self._images_left = images

    @property
    def scale(self) -> torch.Tensor:
        """alpha / n."""
        return self.alpha.detach().clamp(min=SMALLEST_ALPHA) / self.codes.high

    def finish_observing(self) -> None:
        """Sets alpha.

        Raises:
            TrialFailed: if a value was not finite.
        """
        if not self.observer.seen:
            return
        high = self.observer.range()[1]
        if not bool(torch.isfinite(high)):
            raise TrialFailed(f"the values of '{self.spec.name}' are not finite")
        with torch.no_grad():
            self.alpha.copy_(high.clamp(min=SMALLEST_ALPHA))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing:
            seen = x[: self._images_left].detach()
            self._images_left -= len(seen)
            if len(seen):
                self.observer.observe(seen)
            return x
        if not self.enabled:
            return x
        result: torch.Tensor = _Pact.apply(x, self.alpha, self.scale, self.codes.high)
        return result


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: torch.Tensor, scale: torch.Tensor, high: int) -> torch.Tensor:
        ctx.save_for_backward(x, alpha)
        return (widened(x) / scale).round_().clamp_(0, high).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, alpha = ctx.saved_tensors
        # Compared in the precision of the forward pass: a scalar float32 would be rounded to the 16
        # bits of ``x`` under autocast.
        wide = x.to(torch.promote_types(x.dtype, alpha.dtype))
        above = wide >= alpha.clamp(min=SMALLEST_ALPHA)
        inside = (x >= 0) & ~above
        return (gradient * inside).to(x.dtype), (gradient * above).sum().to(alpha.dtype), None, None

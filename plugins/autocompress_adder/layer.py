"""The adder convolution (AdderNet, section 3.1), in float.

    Y[m, o] = -sum_k |P[m, k] - W[o, k]| + b[o]

P are the patches of the input with K = C d d taps each, including zero padding: a padded tap
contributes -|W|. Outputs are about -K, so the layer needs a batch normalisation behind it. Training
does not need b; it keeps outputs exact when inputs are removed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from autocompress_adder import exporting, ops


class AdderConv2d(nn.Module):
    """Negative l1 distance of patches and filters.

    Input ``(N, C, H, W)``, output ``(N, O, H', W')``, in float.

    Gradients are AdderNet's, not the true ones: X - F for the filters, HT(F - X) for the input.

    Args:
        in_channels, out_channels: C and O.
        kernel_size: d, square.
        stride, padding: (height, width) each.
        norm: whether the layer has and applies its own batch normalisation, because none follows
            it.
    """

    weight: torch.Tensor
    """``(O, C, d, d)``."""
    bias: torch.Tensor
    """``(O,)``; not trained."""
    norm: nn.Module | None
    p: float
    """The exponent while a schedule trains from l2 to l1: -sum |P - W|^p. 1 in a finished layer."""
    as_convolution: bool
    """Whether the layer still computes the convolution with its weight, early in a schedule."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self._set_geometry(in_channels, out_channels, (kernel_size, kernel_size), stride, padding)
        # N(0, 1) as in the official code, because distances do not become small with small
        # weights.
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        # The norm removes any constant, so the gradient of the bias is rounding noise, which Adam
        # would scale up to steps.
        self.bias = nn.Parameter(torch.zeros(out_channels), requires_grad=False)
        # Registered even if it is None, because the engine sets the norm behind a quantized layer
        # here.
        self.register_module("norm", nn.BatchNorm2d(out_channels) if norm else None)

    def _set_geometry(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, (1, 1), 1
        self.p, self.as_convolution = 1.0, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.distances(x, self.weight) + self.bias[:, None, None]
        return y if self.norm is None else self.norm(y)

    def distances(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The layer's operation without its bias."""
        if self.as_convolution:
            return F.conv2d(x, weight, None, self.stride, self.padding)
        if torch.compiler.is_exporting():
            return exporting.adder(x, weight, self.stride, self.padding)
        found: torch.Tensor = ops.adder2d(x, weight, list(self.stride), list(self.padding), self.p)
        return found

    def finish(self) -> None:
        """Sets the deployed operation, at any point of a schedule."""
        self.p, self.as_convolution = 1.0, False

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return f"{sizes}, stride={self.stride}, padding={self.padding}"

"""The ghost module (GhostNet, equations 2 and 3).

    Y'   = X * f'                          intrinsic maps, f' [m, c, k, k], m = ceil(n / s)  (eq. 2)
    y_ij = Phi_ij(y'_i)                    ghost maps, i = 1..m, j = 1..s                    (eq. 3)
    Y    = first n of concat(Y', ghosts)   m * s >= n

Phi_is is the identity, the other Phi_ij are d x d.

Everything is written with plain torch operators. So the traced graph, the quantizer and the
exporter get convolutions, a concat, and a gather if channels must be reordered.

Phi is s - 1 depthwise convolutions, one for each j. The reference code has one grouped convolution
with s - 1 filters per group: the same function in another order of channels. Runtimes have fast
kernels for one filter per channel only. For three modules with s = 4 on 64 channels of 28 x 28 in
int8, ONNX Runtime takes 2.03 ms with the grouped convolution and 0.30 ms with the depthwise ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autocompress.contract import LayerSpec


def intrinsic_count(channels: int, ratio: int) -> int:
    """m = ceil(n / s)."""
    return math.ceil(channels / ratio)


def weight_count(in_channels: int, channels: int, kernel: tuple[int, int], ratio: int, cheap_kernel: int) -> int:
    """Weights of a bare module, and multiply-adds per output position: m c k^2 + m (s - 1) d^2."""
    m = intrinsic_count(channels, ratio)
    return m * in_channels * math.prod(kernel) + m * (ratio - 1) * cheap_kernel**2


def compression_ratio(in_channels: int, channels: int, kernel: tuple[int, int], ratio: int, cheap_kernel: int) -> float:
    """r_c: weights of the convolution divided by those of the module (equation 5), with the true m.

    It is about s if d is about k.
    """
    original = channels * in_channels * math.prod(kernel)
    return original / weight_count(in_channels, channels, kernel, ratio, cheap_kernel)


class GhostConv2d(nn.Module):
    """A convolution whose output consists of intrinsic maps and of ghosts of these maps.

    Input ``(N, c, H, W)``, output ``(N, n, H', W')``, as for the convolution that it replaces (the
    host).

    Args:
        host: the replaced convolution; gives shapes, stride, padding, dilation and whether there is
            a bias. Only the primary convolution has its stride, padding and dilation.
        ratio: s, at least 2.
        cheap_kernel: d, odd.
        norm: the normalisation behind the host. If it is given, the module is *activated*: it has a
            copy of the norm behind the primary and behind the cheap convolution, and the norm of
            the host must be removed. With None, the module is *bare*.
        activation: activation behind each normalisation of an activated module; None for a branch
            that ends in an addition.
        order: the output channel of the host for each position of the concat; None for identity.
        restore: put the channels back in the order of the host. With False, the readers have been
            permuted instead. Only this flag decides whether there is a gather, never ``order``.
    """

    channels: torch.Tensor
    places: torch.Tensor

    def __init__(
        self,
        host: nn.Conv2d,
        ratio: int,
        cheap_kernel: int,
        *,
        norm: nn.BatchNorm2d | None = None,
        activation: nn.Module | None = None,
        order: Sequence[int] | None = None,
        restore: bool = True,
    ) -> None:
        super().__init__()
        if ratio < 2:
            raise ValueError("with ratio 1 a ghost module has no ghosts: keep the convolution")
        n, m, bias = host.out_channels, intrinsic_count(host.out_channels, ratio), host.bias is not None
        self.out_channels, self.ratio, self.cheap_kernel, self.restore = n, ratio, cheap_kernel, restore
        self.surplus = m * ratio - n
        # The class of the host, because timm's TensorFlow-style 'same' padding is a subclass.
        shape: tuple[Any, ...] = (host.kernel_size, host.stride, host.padding, host.dilation)
        self.primary = type(host)(host.in_channels, m, *shape, bias=bias)  # type: ignore[misc]  # none is given twice
        self.after_primary = _after(norm, activation, m)
        self.cheap = nn.ModuleList(
            nn.Conv2d(m, m, cheap_kernel, padding=cheap_kernel // 2, groups=m, bias=bias) for _ in range(ratio - 1)
        )
        self.after_cheap = nn.ModuleList(_after(norm, activation, m) for _ in range(ratio - 1))
        positions = torch.arange(n) if order is None else torch.as_tensor(order, dtype=torch.int64)
        self.register_buffer("channels", positions)
        self.register_buffer("places", torch.argsort(positions))
        self.to(host.weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """An approximation of the output of the host."""
        intrinsic = self.after_primary(self.primary(x))  # eq. 2
        # eq. 3; ghost j of intrinsic i is channel j m + i of the ghosts
        ghosts = [after(phi(intrinsic)) for phi, after in zip(self.cheap, self.after_cheap, strict=True)]
        maps = torch.cat([intrinsic, *ghosts], dim=1)
        if self.surplus:
            maps = maps[:, : self.out_channels]
        return maps.index_select(1, self.places) if self.restore else maps

    def reorder(self, order: Sequence[int] | torch.Tensor) -> None:
        """Sets the host channel of each position, a permutation of ``range(out_channels)``."""
        positions = torch.as_tensor(order, dtype=torch.int64, device=self.channels.device)
        self.channels.copy_(positions)
        self.places.copy_(torch.argsort(positions))

    @property
    def phi(self) -> list[nn.Conv2d]:
        """The cheap convolutions, in order."""
        return list(self.cheap)  # type: ignore[arg-type]

    @property
    def activated(self) -> bool:
        """Whether the module has its own normalisations."""
        return len(self.after_primary) > 0

    @property
    def primary_norm(self) -> nn.BatchNorm2d:
        """The norm behind the primary convolution of an activated module."""
        return self.after_primary[0]  # type: ignore[return-value]

    @property
    def ghost_norms(self) -> list[nn.BatchNorm2d]:
        """The norm behind each cheap convolution of an activated module."""
        return [after[0] for after in self.after_cheap]  # type: ignore[index]

    def extra_repr(self) -> str:
        return f"{self.out_channels}, ratio={self.ratio}, restore={self.restore}"


def _after(norm: nn.BatchNorm2d | None, activation: nn.Module | None, channels: int) -> nn.Sequential:
    """Normalisation and activation of an activated module; empty in a bare one."""
    if norm is None:
        return nn.Sequential()
    own = nn.BatchNorm2d(channels, eps=norm.eps, momentum=norm.momentum)
    return nn.Sequential(own, copy.deepcopy(activation)) if activation is not None else nn.Sequential(own)


class GhostSpec(LayerSpec):
    """A ghost module is traced as its torch layers; the spec gives the order of its channels."""

    layer_type = GhostConv2d

    def norm(self, layer: nn.Module) -> nn.Module | None:
        """The normalisation behind the last ghosts, in an activated module."""
        assert isinstance(layer, GhostConv2d)
        return layer.ghost_norms[-1] if layer.activated else None

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        """The host's channel of each output: in order if restored, else in that of the concat."""
        assert isinstance(layer, GhostConv2d)
        channels = layer.channels.detach()
        return channels.sort().values if layer.restore else channels.clone()

    def pruner(self) -> object:
        """Removes an intrinsic map together with its ghosts."""
        from autocompress_ghost.removal import GhostPruner

        return GhostPruner()

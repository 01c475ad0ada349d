"""A layer to initialise: the input maps of its cheap convolution, and their targets.

A bare module (with the host's normalisation behind it) is fitted on raw outputs Y. An activated
module fits its ghosts from Z_i = act(BN(Y_i)), and gives them a normalisation that reproduces the
fit: its scale and shift are the moments that it removes. If act(act(z)) = act(z), as for ReLU, the
target is Z_j, which makes multiples exact; else it is BN(Y_j).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from autocompress_ghost.module import GhostConv2d

IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Identity)


@dataclass
class Work:
    """A layer to initialise: the new module, and the trained layer that it replaces.

    Attributes:
        module: the ghost module, not yet in the network.
        conv: the trained convolution.
        norm: the normalisation behind it, also if the module does not take it over.
        activation: the activation that the module takes over.
    """

    module: GhostConv2d
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    activation: nn.Module | None = None

    @property
    def activated(self) -> bool:
        """Whether the module has its own normalisations."""
        return self.module.activated

    @property
    def kept(self) -> torch.Tensor:
        """The host's channels that are intrinsic, int64 ``(m,)``."""
        return self.module.channels[: self.module.primary.out_channels]

    @property
    def ghosts(self) -> torch.Tensor:
        """The host's channels that are ghosts, int64 ``(n - m,)``, in the order of the concat."""
        return self.module.channels[self.module.primary.out_channels :]

    @property
    def owner(self) -> torch.Tensor:
        """For each ghost, the index in ``kept`` of its intrinsic channel.

        Position m + j m + i belongs to intrinsic i.
        """
        return torch.arange(len(self.ghosts), device=self.ghosts.device) % len(self.kept)

    def scale(self) -> torch.Tensor:
        """``(n,)``: the factor of each raw output channel behind the normalisation."""
        if self.norm is None:
            return torch.ones_like(self.conv.weight[:, 0, 0, 0])
        return norm_scale(self.norm)

    def source(self, raw: torch.Tensor) -> torch.Tensor:
        """All n maps in the form that the cheap convolution reads."""
        if not self.activated:
            return raw
        maps = normalise(self.norm, raw)
        return self.activation(maps) if self.activation is not None else maps

    def target(self, raw: torch.Tensor) -> torch.Tensor:
        """The target maps of ghosts, before their own activation."""
        if not self.activated:
            return raw
        if self.activation is None or isinstance(self.activation, IDEMPOTENT):
            return self.source(raw)
        return normalise(self.norm, raw)


def norm_scale(norm: nn.BatchNorm2d) -> torch.Tensor:
    """gamma / sigma."""
    assert norm.running_var is not None
    deviation = torch.sqrt(norm.running_var + norm.eps)
    return (norm.weight if norm.affine else torch.ones_like(deviation)).detach() / deviation


def normalise(norm: nn.BatchNorm2d | None, maps: torch.Tensor) -> torch.Tensor:
    """``norm`` in eval mode, without the activation that timm's BatchNormAct2d has inside."""
    assert norm is not None
    return F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


def take_channels(norm: nn.BatchNorm2d, source: nn.BatchNorm2d, channels: torch.Tensor) -> None:
    """``norm`` becomes channels ``channels`` of ``source``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert source.running_mean is not None
    assert source.running_var is not None
    norm.running_mean.copy_(source.running_mean[channels])
    norm.running_var.copy_(source.running_var[channels])
    if source.affine:
        norm.weight.data.copy_(source.weight.data[channels])
        norm.bias.data.copy_(source.bias.data[channels])

"""Removes channels of a ghost module: an intrinsic map is removed together with its ghosts.

A ghost cannot be removed alone, because its cheap convolution would no longer be depthwise, and
runtimes only have a fast kernel for that. An intrinsic map cannot be removed alone either, since
its ghosts are computed from it. So a module with n outputs and ratio s has m = ceil(n / s) units,
each of s outputs. If m s is more than n, the last units have one output less.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from autocompress_ghost.module import GhostConv2d


class GhostPruner(BasePruningFunc):
    """:class:`GhostConv2d` for torch-pruning: a layer with tied outputs (``units``)."""

    def units(self, layer: nn.Module) -> list[list[int]]:
        """For each intrinsic map, the outputs that are removed together; ascending.

        ``places[o]`` is the place of output o in the concat. Place p is intrinsic map p % m, or a
        ghost of it.
        """
        assert isinstance(layer, GhostConv2d)
        sets: list[list[int]] = [[] for _ in range(layer.primary.out_channels)]
        for output, place in enumerate(_places(layer)):
            sets[place % len(sets)].append(output)
        return sets

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Removes the outputs ``idxs``, in place.

        Raises:
            ValueError: if they are not a union of ``units``, or if they are all outputs.
        """
        assert isinstance(layer, GhostConv2d)
        gone = set(idxs)
        units = self.units(layer)
        kept = [i for i, unit in enumerate(units) if not gone.issuperset(unit)]
        if not kept or gone & {output for i in kept for output in units[i]}:
            raise ValueError("a ghost module loses an intrinsic map together with its ghosts, and never all of them")
        places = _places(layer)
        stay = sorted(places[output] for output in range(layer.out_channels) if output not in gone)
        _keep_rows(layer.primary, kept)
        for convolution in layer.phi:
            _keep_rows(convolution, kept)
            convolution.in_channels = convolution.groups = len(kept)
        if layer.activated:
            for norm in (layer.primary_norm, *layer.ghost_norms):
                _keep_norm(norm, kept)
        # The remaining places are still in the order of the concat, with the unused ones at the
        # end. Channels keep their numbers in the convolution that the module replaced.
        layer.channels = layer.channels[torch.as_tensor(stay, device=layer.channels.device)]
        layer.places = torch.argsort(layer.channels)
        layer.out_channels = len(stay)
        layer.surplus = len(kept) * layer.ratio - len(stay)
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Removes the inputs ``idxs``, in place."""
        assert isinstance(layer, GhostConv2d)
        primary, gone = layer.primary, set(idxs)
        keep = [i for i in range(primary.in_channels) if i not in gone]
        primary.weight = _chosen(primary.weight, keep, 1)
        primary.in_channels = len(keep)
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        """The number of outputs, n."""
        assert isinstance(layer, GhostConv2d)
        return layer.out_channels

    def get_in_channels(self, layer: nn.Module) -> int:
        """The number of inputs, c."""
        assert isinstance(layer, GhostConv2d)
        return layer.primary.in_channels


def _places(layer: GhostConv2d) -> list[int]:
    """Each output's place in the concat."""
    return layer.places.tolist() if layer.restore else list(range(layer.out_channels))


def _chosen(parameter: torch.Tensor, keep: Sequence[int], dim: int = 0) -> nn.Parameter:
    index = torch.as_tensor(keep, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, index), requires_grad=parameter.requires_grad)


def _keep_rows(convolution: nn.Conv2d, keep: Sequence[int]) -> None:
    convolution.weight = _chosen(convolution.weight, keep)
    if convolution.bias is not None:
        convolution.bias = _chosen(convolution.bias, keep)
    convolution.out_channels = len(keep)


def _keep_norm(norm: nn.BatchNorm2d, keep: Sequence[int]) -> None:
    if norm.affine:
        norm.weight, norm.bias = _chosen(norm.weight, keep), _chosen(norm.bias, keep)
    for name in ("running_mean", "running_var"):
        statistic = getattr(norm, name)
        if statistic is not None:
            setattr(norm, name, statistic[torch.as_tensor(keep, device=statistic.device)])
    norm.num_features = len(keep)

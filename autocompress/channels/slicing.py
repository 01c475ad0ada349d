"""Removes channels of one layer: of weights, biases, statistics, and attributes with sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn
from torch_pruning import ops
from torch_pruning.pruner import function

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STANDARDISING = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


class Refused(Exception):
    """The layer cannot lose these channels; the message is the reason."""


def is_depthwise(layer: nn.Module) -> bool:
    """Whether ``layer`` has one filter per channel, and as many outputs as inputs."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def slice_layer(layer: nn.Module, keep_in: Sequence[int] | None, keep_out: Sequence[int] | None, slicer: Any) -> None:
    """Keeps only these inputs and outputs of ``layer``, in place; None keeps all of a side.

    Args:
        layer: convolution, linear layer, norm, or a layer that ``slicer`` takes.
        keep_in, keep_out: ascending indices; equal for depthwise layers and norms.
        slicer: torch-pruning's ``BasePruningFunc`` for a layer type of a plugin; None for torch's
            layers.

    Raises:
        Refused: for an unknown type of layer, for unequal counts per group of a grouped
            convolution, or for inputs of a convolution that standardises its weights.
    """
    if slicer is not None:
        _by_slicer(layer, keep_in, keep_out, slicer)
    elif is_depthwise(layer):
        assert isinstance(layer, nn.Conv2d)
        keep = keep_out if keep_out is not None else keep_in
        assert keep is not None
        _select(layer, "weight", keep, 0)
        _select(layer, "bias", keep, 0)
        layer.in_channels = layer.out_channels = layer.groups = len(keep)
    elif isinstance(layer, nn.Conv2d):
        _slice_convolution(layer, keep_in, keep_out)
    elif isinstance(layer, nn.Linear):
        _slice_linear(layer, keep_in, keep_out)
    elif isinstance(layer, NORMS):
        keep = keep_out if keep_out is not None else keep_in
        assert keep is not None
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(layer, name, keep, 0)
        layer.num_features = len(keep)
    else:
        known = function.PrunerBox.get(ops.module2type(layer))
        if known is None:
            raise Refused(f"{type(layer).__name__} is not a layer that can lose channels")
        _by_slicer(layer, keep_in, keep_out, known)


def slice_parameter(model: nn.Module, path: str, keep: Sequence[int], dim: int) -> None:
    """Keeps only these indices of a bare parameter."""
    owner, _, name = path.rpartition(".")
    _select(model.get_submodule(owner), name, keep, dim)


def _select(layer: nn.Module, name: str, keep: Sequence[int], dim: int) -> None:
    tensor = getattr(layer, name, None)
    if not isinstance(tensor, torch.Tensor):
        return
    index = torch.as_tensor(keep, dtype=torch.int64, device=tensor.device)
    chosen = tensor.detach().index_select(dim, index)
    if isinstance(tensor, nn.Parameter):
        setattr(layer, name, nn.Parameter(chosen, requires_grad=tensor.requires_grad))
    else:
        setattr(layer, name, chosen)


def _slice_linear(layer: nn.Linear, keep_in: Sequence[int] | None, keep_out: Sequence[int] | None) -> None:
    if keep_out is not None:
        _select(layer, "weight", keep_out, 0)
        _select(layer, "bias", keep_out, 0)
        layer.out_features = len(keep_out)
    if keep_in is not None:
        _select(layer, "weight", keep_in, 1)
        layer.in_features = len(keep_in)


def _slice_convolution(layer: nn.Conv2d, keep_in: Sequence[int] | None, keep_out: Sequence[int] | None) -> None:
    groups = layer.groups
    if keep_in is not None:
        if isinstance(layer, STANDARDISING):
            raise Refused(f"{type(layer).__name__} standardises its weights over all inputs")
        inside = _per_group(keep_in, layer.in_channels, groups, "inputs")
        rows = layer.out_channels // groups
        blocks = []
        for group, keep in enumerate(inside):  # each group of filters keeps other inputs
            index = torch.as_tensor(keep, dtype=torch.int64, device=layer.weight.device)
            blocks.append(layer.weight.detach()[group * rows : (group + 1) * rows].index_select(1, index))
        layer.weight = nn.Parameter(torch.cat(blocks), requires_grad=layer.weight.requires_grad)
        layer.in_channels = len(keep_in)
    if keep_out is not None:
        _per_group(keep_out, layer.out_channels, groups, "outputs")
        for name in ("weight", "bias", "gain"):  # timm's ScaledStdConv2d has a gain per filter
            _select(layer, name, keep_out, 0)
        layer.out_channels = len(keep_out)


def _per_group(keep: Sequence[int], channels: int, groups: int, what: str) -> list[list[int]]:
    """The kept indices of each group, relative to the group."""
    width = channels // groups
    inside: list[list[int]] = [[] for _ in range(groups)]
    for index in keep:
        inside[index // width].append(index % width)
    if len({len(kept) for kept in inside}) != 1:
        raise Refused(f"a convolution with {groups} groups must keep the same number of {what} in each")
    return inside


def _by_slicer(layer: nn.Module, keep_in: Sequence[int] | None, keep_out: Sequence[int] | None, slicer: Any) -> None:
    # One function removes inputs and outputs together, as for a depthwise layer.
    is_one_function = slicer.prune_in_channels == slicer.prune_out_channels
    if keep_out is not None:
        slicer.prune_out_channels(layer, _dropped(keep_out, slicer.get_out_channels(layer)))
    if keep_in is not None and not (is_one_function and keep_out is not None):
        slicer.prune_in_channels(layer, _dropped(keep_in, slicer.get_in_channels(layer)))


def _dropped(keep: Sequence[int], size: int) -> list[int]:
    return sorted(set(range(size)) - set(keep))

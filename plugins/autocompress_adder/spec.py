"""Describes adder layers to the engine and to other methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from autocompress.contract import Grid, LayerSpec
from autocompress_adder.integers import HardenedAdder2d, SimulatedAdder2d, simulated
from autocompress_adder.layer import AdderConv2d


class AdderSpec(LayerSpec):
    """Describes :class:`AdderConv2d`, and its forms for training with integers and for deployment.

    Each form is one operator of the traced network.
    """

    layer_type = AdderConv2d
    leaf = True
    slow_in_file = (
        "adder layers take some twenty times a convolution's time in standard ONNX operators; their gain is on "
        "hardware without multipliers, which cost models show"
    )
    operator_kinds = frozenset({"add", "accumulate"})

    def operator_counts(
        self, layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, int]:
        """Counts two additions for each tap, and no multiplication.

        The first addition is the difference of an input and a weight, and has their bit width. The
        second one adds the magnitude of this difference to the sum, as a convolution adds products.
        """
        del input_shape
        assert isinstance(layer, AdderConv2d)
        positions = math.prod(output_shape[2:])
        taps = positions * layer.in_channels * math.prod(layer.kernel_size) * layer.out_channels
        return {"add": taps, "accumulate": taps}

    def simulated(self, layer: nn.Module) -> nn.Module:
        """Returns the layer that trains with its weights on the grid of the input."""
        assert isinstance(layer, AdderConv2d)
        return simulated(layer)

    def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
        """Returns the layer whose weights are stored as integers on the grid of the input."""
        assert isinstance(simulated, SimulatedAdder2d)
        return HardenedAdder2d(simulated, grid)

    def norm(self, layer: nn.Module) -> nn.Module | None:
        """Returns the layer's own norm, which it has if the network had none behind it."""
        assert isinstance(layer, AdderConv2d)
        return layer.norm

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        """Returns the identity: channels are in the order of the replaced convolution."""
        assert isinstance(layer, AdderConv2d)
        return torch.arange(layer.out_channels)

    def pruner(self) -> object:
        """Returns torch-pruning's pruner for the layer."""
        return AdderPruner()


class AdderPruner(BasePruningFunc):
    """Removes filters and inputs of an adder layer, for torch-pruning."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Removes the filters ``idxs``, in place."""
        assert isinstance(layer, AdderConv2d)
        keep = _kept(layer.out_channels, idxs)
        layer.weight, layer.bias = _chosen(layer.weight, keep, 0), _chosen(layer.bias, keep, 0)
        if isinstance(layer.norm, nn.BatchNorm2d):
            _keep_norm(layer.norm, keep)
        layer.out_channels = len(keep)
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Removes the inputs ``idxs``, in place.

        A removed input is treated as zero. It would contribute ``-sum |0 - W|`` to each output, so
        this constant is added to the bias.
        """
        assert isinstance(layer, AdderConv2d)
        keep = _kept(layer.in_channels, idxs)
        gone = layer.weight.detach()[:, list(idxs)]
        bias = layer.bias.detach() - gone.abs().pow(layer.p).flatten(1).sum(1)
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
        layer.weight = _chosen(layer.weight, keep, 1)
        layer.in_channels = len(keep)
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        """Returns the number of filters."""
        assert isinstance(layer, AdderConv2d)
        return layer.out_channels

    def get_in_channels(self, layer: nn.Module) -> int:
        """Returns the number of input channels."""
        assert isinstance(layer, AdderConv2d)
        return layer.in_channels


def _kept(channels: int, gone: Sequence[int]) -> list[int]:
    dropped = set(gone)
    return [i for i in range(channels) if i not in dropped]


def _chosen(parameter: torch.Tensor, keep: Sequence[int], dim: int) -> nn.Parameter:
    index = torch.as_tensor(keep, dtype=torch.int64, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, index), requires_grad=parameter.requires_grad)


def _keep_norm(norm: nn.BatchNorm2d, keep: Sequence[int]) -> None:
    norm.weight, norm.bias = _chosen(norm.weight, keep, 0), _chosen(norm.bias, keep, 0)
    for name in ("running_mean", "running_var"):
        statistic = getattr(norm, name)
        setattr(norm, name, statistic[torch.as_tensor(keep, dtype=torch.int64, device=statistic.device)])
    norm.num_features = len(keep)

"""The tap crop leaves out kernel taps that only read padding from a file.

A file has one size of image. If maps are small, some taps of a convolution only read zeros: for a
3x3 kernel on a 1x1 map, all taps but the middle one. Such a tap adds nothing, so a smaller kernel
with less padding gives the same outputs. This holds for integers too, because quantized inputs are
padded with the quantized zero. The tap crop is no compression and loses nothing. Only the file is
cropped, because the torch module of an artifact also takes images of other sizes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import fx, nn

from autocompress.graph import NetworkFacts
from autocompress.graph.kinds import module_of, shape_of
from autocompress.graph.taps import Trim, axis_of, trimmed
from autocompress.quantization.layers import HardenedConv2d


@dataclass(frozen=True)
class LayerCrop:
    """The remaining kernel of one layer.

    Attributes:
        rows, places: first and last tap that stay, along height and along width.
        padding: (height, width) of the shorter kernel.
        weights: number of weights left out.
        macs: multiply-adds for one image that are left out.
    """

    rows: tuple[int, int]
    places: tuple[int, int]
    padding: tuple[int, int]
    weights: int
    macs: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> LayerCrop:
        """Makes a crop from JSON values."""
        pairs = {name: (int(record[name][0]), int(record[name][1])) for name in ("rows", "places", "padding")}
        return cls(**pairs, weights=int(record["weights"]), macs=int(record["macs"]))

    @property
    def taps(self) -> int:
        """Number of taps that stay."""
        return (self.rows[1] - self.rows[0] + 1) * (self.places[1] - self.places[0] + 1)


@dataclass(frozen=True)
class TapCrop:
    """The tap crop of a network.

    Attributes:
        layers: the layers that lose taps, by name.
    """

    layers: Mapping[str, LayerCrop] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Number of weights left out."""
        return sum(layer.weights for layer in self.layers.values())

    @property
    def macs(self) -> int:
        """Multiply-adds for one image that are left out."""
        return sum(layer.macs for layer in self.layers.values())

    def record(self) -> dict[str, Any]:
        """The crop as JSON values, for a plan."""
        return {name: asdict(layer) for name, layer in self.layers.items()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TapCrop:
        """The reverse of :meth:`record`, perhaps through JSON."""
        return cls({name: LayerCrop.of(layer) for name, layer in record.items()})

    def told(self) -> dict[str, int]:
        """The figures for reports: number of layers, weights and multiply-adds."""
        return {"layers": len(self.layers), "weights": self.weights, "macs": self.macs}


def tap_crop(network: NetworkFacts, model: nn.Module) -> TapCrop:
    """The tap crop of ``model``.

    A layer keeps its kernel if it reads maps of several sizes, or if its type is derived from a
    convolution, because such a type may compute something else.

    Args:
        network: facts about the float network at the input size.
        model: model to be exported, float or hardened.
    """
    calls: dict[str, set[tuple[int, ...]]] = {}
    modules = dict(model.named_modules())
    for node in network.graph.graph.nodes:
        if type(module_of(node)) is nn.Conv2d and isinstance(node.args[0], fx.Node):
            calls.setdefault(str(node.target), set()).add((shape_of(node.args[0]) or ())[2:])
    found = {}
    for name, sizes in calls.items():
        layer = modules.get(name)
        if len(sizes) == 1 and (type(layer) is nn.Conv2d or isinstance(layer, HardenedConv2d)):
            own = _layer_crop(network.graph.get_submodule(name), next(iter(sizes)), network.layers[name].output_shape)
            if own is not None:
                found[name] = own
    return TapCrop(found)


def cropped(model: nn.Module, crop: TapCrop) -> nn.Module:
    """A copy of ``model`` without these taps; ``model`` itself if there are none.

    The copy shares the layers of ``model``, except those with smaller kernels.
    """
    if not crop.layers:
        return model
    short = copy.deepcopy(model)
    for name, own in crop.layers.items():
        layer = short.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | HardenedConv2d)
        rows, places = (slice(first, last + 1) for first, last in (own.rows, own.places))
        weight = layer.weight
        part = weight.detach()[:, :, rows, places].clone(memory_format=torch.contiguous_format)
        layer.weight = nn.Parameter(part) if isinstance(weight, nn.Parameter) else part
        layer.kernel_size = (part.shape[2], part.shape[3])
        if isinstance(layer, HardenedConv2d):
            layer.geometry = {**layer.geometry, "padding": own.padding}
        else:
            layer.padding = own.padding
    return short


def _layer_crop(layer: nn.Module, size: tuple[int, ...], outputs: tuple[int, ...]) -> LayerCrop | None:
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or len(size) != 2:
        return None
    height, width = int(layer.kernel_size[0]), int(layer.kernel_size[1])
    trims = [_trim(layer, axis, int(size[axis]), kernel) for axis, kernel in enumerate((height, width))]
    if trims == [None, None]:
        return None
    rows, places = (
        trim or Trim(0, kernel - 1, int(layer.padding[axis]))
        for axis, (trim, kernel) in enumerate(zip(trims, (height, width), strict=True))
    )
    gone = height * width - (rows.last - rows.first + 1) * (places.last - places.first + 1)
    per_tap = layer.out_channels * (layer.in_channels // layer.groups)
    return LayerCrop(
        (rows.first, rows.last),
        (places.first, places.last),
        (rows.padding, places.padding),
        gone * per_tap,
        gone * per_tap * math.prod(outputs[2:]),
    )


def _trim(layer: nn.Conv2d, axis: int, extent: int, size: int) -> Trim | None:
    padding = int(layer.padding[axis])
    return trimmed(axis_of(extent, size, padding, padding, int(layer.stride[axis]), int(layer.dilation[axis])), size)

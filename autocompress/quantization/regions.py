"""Regions of a network: a layer and the operators after it, up to the next layer.

A whole region computes either on integers or in float. Its pattern has everything that its time
depends on: the operator, its shapes, and the operators that follow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from autocompress.graph.facts import layer_macs
from autocompress.graph.kinds import LAYERS, activation_name, kind, module_of, shape_of
from autocompress.quantization.placement import LayerBits, Placement

_SILENT = frozenset({"identity", "dropout", "getitem", "reshape", "parameter", "input", "output"})
"""Operators that take next to no time."""


@dataclass(frozen=True)
class Pattern:
    """The properties of a region that decide its time.

    Attributes:
        operator: "conv", "depthwise" or "linear".
        inputs, outputs: shapes of one image, without the batch.
        kernel, stride, dilation: settings of a convolution; 1 for a linear layer.
        groups: number of groups of a convolution that is not depthwise.
        followers: the operators up to the next layer, with the number of values that each writes.
    """

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    followers: tuple[tuple[str, int], ...] = ()
    macs: int = 0

    @property
    def key(self) -> str:
        """The pattern as text."""
        values = {name: value for name, value in vars(self).items() if name != "macs"}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for two patterns whose times can be compared: the pattern without sizes.

        It includes whether channels are multiples of 16, because the speed of integer kernels
        depends on it.
        """
        aligned = tuple(math.gcd(shape[0] if len(shape) == 3 else shape[-1], 16) for shape in self._shapes)
        return (*self.family, aligned)

    @property
    def family(self) -> tuple[Any, ...]:
        """The same as ``kind``, without the multiple of the channels."""
        names = tuple(name for name, _ in self.followers)
        return (self.operator, self.kernel, self.stride, self.dilation, self.groups > 1, names)

    @property
    def work(self) -> float:
        """Multiply-adds and written values, roughly proportional to the time within one kind."""
        return self.macs + 8.0 * math.prod(self.outputs) + 8.0 * sum(count for _, count in self.followers)

    @property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.inputs, self.outputs


@dataclass(frozen=True)
class Region:
    """A layer and the operators after it, up to the next layer.

    Attributes:
        layer: name.
        pattern: what its time depends on.
        can_be_integer: its layer has an integer form.
        can_be_float: True unless its layer is a leaf layer of a plugin.
    """

    layer: str
    pattern: Pattern
    can_be_integer: bool = True
    can_be_float: bool = True


@dataclass(frozen=True)
class Crossing:
    """A tensor that one region writes and others read.

    Attributes:
        source: the layer of the region that writes it.
        readers: layers of the regions that read it.
        shape: shape of one image.
        on_grid: in an integer network, its operator writes it as integers.
        is_map: it is a feature map, which float and integer convolutions store in different
            layouts.
    """

    source: str
    readers: frozenset[str]
    shape: tuple[int, ...]
    on_grid: bool = True
    is_map: bool = True


@dataclass(frozen=True)
class Regions:
    """The regions of a network, in order, and the tensors between them."""

    regions: Sequence[Region]
    crossings: Sequence[Crossing]


Choose = Callable[[Regions], Collection[str]]
"""Gives the layers whose regions are to compute in float."""


def regions_of(module: fx.GraphModule, config: Mapping[str, LayerBits], placement: Placement) -> Regions:
    """The regions of ``module`` (folded, lowered, shapes propagated).

    Args:
        module: the network.
        config: quantizers and bits of each layer. Layers without a weight quantizer are float
            regions.
        placement: placement of the network with integers wherever ``config`` allows them.
    """
    names = _layers(module, config, placement)
    owners = _owners(list(module.graph.nodes), names)
    followers: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    for node, owner in owners.items():
        word = activation_name(node) if kind(node) == "activation" else kind(node)
        if owner and names.get(owner) is not node and word not in _SILENT:
            followers[owner].append((word, math.prod(_of_one(node))))
    integer = {*placement.weights, *placement.leaves}
    regions = [
        Region(name, _pattern(node, followers[name]), name in integer, name not in placement.leaves)
        for name, node in names.items()
    ]
    return Regions(regions, _crossings(owners, names, placement))


def _layers(module: fx.GraphModule, config: Mapping[str, LayerBits], placement: Placement) -> dict[str, fx.Node]:
    """The first call of each layer by name."""
    found: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        is_layer = kind(node) in LAYERS and isinstance(module_of(node), nn.Conv2d | nn.Linear)
        name = str(node.target)
        is_known = name in config or name in placement.leaves or (is_layer and name not in placement.weights)
        if node.op == "call_module" and (is_layer or name in placement.leaves) and is_known:
            found.setdefault(name, node)
    return found


def _owners(nodes: Sequence[fx.Node], layers: Mapping[str, fx.Node]) -> dict[fx.Node, str]:
    """The layer whose region each node belongs to: the last one among its inputs."""
    names = {node: name for name, node in layers.items()}
    position = {node: place for place, node in enumerate(nodes)}
    owners: dict[fx.Node, str] = {}
    last: dict[fx.Node, int] = {}
    for node in nodes:
        if node in names:
            owners[node], last[node] = names[node], position[node]
            continue
        latest = max(node.all_input_nodes, key=lambda source: last[source], default=None)
        owners[node] = "" if latest is None else owners[latest]
        last[node] = -1 if latest is None else last[latest]
    return owners


def _crossings(owners: Mapping[fx.Node, str], layers: Mapping[str, fx.Node], placement: Placement) -> list[Crossing]:
    found = []
    for node, owner in owners.items():
        readers = frozenset(owners[user] for user in node.users if owners[user] not in ("", owner))
        if owner and readers and shape_of(node) is not None:
            origin = placement.origin.get(node.name)
            point = placement.activations.get(origin) if origin is not None else None
            on_grid, is_map = point is not None and point.readers is None, kind(layers[owner]) == "conv"
            found.append(Crossing(owner, readers, _of_one(node), on_grid, is_map))
    return found


def _pattern(node: fx.Node, followers: Sequence[tuple[str, int]]) -> Pattern:
    layer = module_of(node)
    outputs = shape_of(node) or (1,)
    inputs = _of_one(node.all_input_nodes[0]) if node.all_input_nodes else ()
    own = tuple(followers)
    if not isinstance(layer, nn.Conv2d):
        macs = layer_macs(layer, outputs) if isinstance(layer, nn.Linear) else math.prod(_of_one(node))
        operator = "linear" if isinstance(layer, nn.Linear) else type(layer).__name__
        return Pattern(operator, inputs, _of_one(node), followers=own, macs=macs)
    depthwise = layer.groups == layer.in_channels > 1
    return Pattern(
        "depthwise" if depthwise else "conv",
        inputs,
        _of_one(node),
        kernel=(int(layer.kernel_size[0]), int(layer.kernel_size[1])),
        stride=int(layer.stride[0]),
        dilation=int(layer.dilation[0]),
        groups=1 if depthwise else layer.groups,
        followers=own,
        macs=layer_macs(layer, outputs),
    )


def _of_one(node: fx.Node) -> tuple[int, ...]:
    return tuple((shape_of(node) or (1,))[1:])

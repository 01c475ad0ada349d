"""Facts about the layers of a network: shapes, costs, and readers of their channels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn

from autocompress.graph.kinds import LAYERS, activation_name, kind, module_of, shape_of
from autocompress.graph.plain import plain_convolutions
from autocompress.graph.shapes import propagate_shapes
from autocompress.graph.trace import evaluating, trace
from autocompress.graph.walk import Readers, reaches_image


@dataclass(frozen=True)
class LayerFacts:
    """Facts about one layer in a network. Shapes are for a batch of 1.

    Attributes:
        name: module path in the original model.
        kind: "conv", "linear", or the class name of a custom leaf.
        in_channels, out_channels: channels, or features of a linear layer; 0 where a custom leaf
            has none.
        kernel_size, stride: (height, width); (1, 1) for a linear layer.
        groups: number of groups of a convolution.
        input_shape, output_shape: shapes of its input and its output.
        macs: multiply-adds per image, summed over its calls; 0 for a custom leaf, which counts its
            operators itself.
        params: number of its parameters.
        norm: module path of the batch normalisation directly behind it.
        activation: lower-case name of the activation directly behind it, or behind its norm.
        in_gate: its output is only used as a factor of a multiplication (squeeze and excite).
        enters_add: its output is an operand of a residual addition.
        is_input: it reads the image.
        is_output: it outputs the logits.
        consumers: layers that read its channels one to one, through norm, activation, pooling and
            dropout only.
        private: every reader is such a consumer with dense weights, so that a permutation of the
            output channels can be folded into the weights of consumers and norm.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    params: int
    norm: str | None
    activation: str | None
    in_gate: bool
    enters_add: bool
    is_input: bool
    is_output: bool
    consumers: tuple[str, ...]
    private: bool


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about a network.

    Attributes:
        layers: facts about each layer by module path, in the order of execution.
        graph: the traced module, with shapes in ``node.meta``; a copy of the model.
        params: all parameters of the model.
        other_macs: multiply-adds outside layers: products in attention, and layers inside modules
            that cannot be traced.
    """

    layers: dict[str, LayerFacts]
    graph: fx.GraphModule
    params: int
    other_macs: int

    @cached_property
    def macs(self) -> int:
        """Multiply-adds for one image, of convolutions, linear layers and matrix products."""
        return sum(layer.macs for layer in self.layers.values()) + self.other_macs


def facts(model: nn.Module, input_size: tuple[int, int, int], leaves: tuple[type, ...] = ()) -> NetworkFacts:
    """Traces a copy of ``model`` in eval mode and runs it once on a blank image.

    Args:
        model: a float model; it is not changed.
        input_size: (channels, height, width).
        leaves: layer types that stay one node and are listed as layers.

    Raises:
        UntraceableModel: if it cannot be traced, or does not take such images.
    """
    with evaluating(model):
        module = trace(copy.deepcopy(model), leaves)
        plain_convolutions(module)
    with _counted_inside(module, leaves) as inside:
        propagate_shapes(module, input_size)
    readers = Readers(module)
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if kind(node) in LAYERS or isinstance(module_of(node), leaves):
            calls.setdefault(str(node.target), []).append(node)
    layers = {name: _layer(name, nodes, readers) for name, nodes in calls.items()}
    params = sum(parameter.numel() for parameter in model.parameters())
    other = sum(_product_macs(node) for node in module.graph.nodes) + sum(inside)
    return NetworkFacts(layers, module, params, other)


@contextmanager
def _counted_inside(module: fx.GraphModule, leaves: tuple[type, ...]) -> Iterator[list[int]]:
    """Multiply-adds of layers inside modules that could not be traced, for each call meanwhile."""
    found: list[int] = []

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        found.append(layer_macs(layer, tuple(output.shape)))

    whole = {module_of(node) for node in module.graph.nodes if kind(node) not in LAYERS} - {None}
    inside = {
        layer for module in whole if module is not None and not isinstance(module, leaves) for layer in module.modules()
    }
    handles = [layer.register_forward_hook(count) for layer in inside if isinstance(layer, nn.Conv2d | nn.Linear)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _layer(name: str, nodes: list[fx.Node], readers: Readers) -> LayerFacts:
    node, layer = nodes[0], module_of(nodes[0])
    assert layer is not None
    what = kind(node) if kind(node) in LAYERS else type(layer).__name__
    read = readers.of(node)
    source = node.args[0]
    norm = readers.norm_behind(node)
    groups = int(getattr(layer, "groups", 1))
    return LayerFacts(
        name=name,
        kind=what,
        in_channels=int(getattr(layer, "in_channels", getattr(layer, "in_features", 0))),
        out_channels=int(getattr(layer, "out_channels", getattr(layer, "out_features", 0))),
        kernel_size=_pair(getattr(layer, "kernel_size", 1)),
        stride=_pair(getattr(layer, "stride", 1)),
        groups=groups,
        input_shape=(shape_of(source) if isinstance(source, fx.Node) else None) or (),
        output_shape=shape_of(node) or (),
        macs=sum(layer_macs(layer, shape_of(call) or ()) for call in nodes) if what in LAYERS else 0,
        params=sum(parameter.numel() for parameter in layer.parameters()),
        norm=None if norm is None else str(norm.target),
        activation=_activation(node, norm),
        in_gate=readers.in_gate(node),
        enters_add=read.enters_add,
        is_input=isinstance(source, fx.Node) and reaches_image(source),
        is_output=read.is_output,
        consumers=tuple(str(consumer.target) for consumer in read.layers),
        private=len(nodes) == 1 and what in LAYERS and groups == 1 and read.only_dense_layers,
    )


def layer_macs(layer: nn.Module, output_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one call of a convolution or linear layer; 0 for others.

    Modules of other classes with the same attributes are treated in the same way.
    """
    if not output_shape:
        return 0
    outputs = math.prod(output_shape)
    if hasattr(layer, "in_features"):
        return outputs * int(layer.in_features)  # type: ignore[arg-type]
    if hasattr(layer, "in_channels") and hasattr(layer, "kernel_size"):
        inputs = int(layer.in_channels) // int(getattr(layer, "groups", 1))  # type: ignore[arg-type]
        return outputs * math.prod(_pair(layer.kernel_size)) * inputs
    return 0


def _product_macs(node: fx.Node) -> int:
    """Multiply-adds of a product of two activations, also inside attention."""
    what, sources = kind(node), [shape_of(source) for source in node.all_input_nodes]
    if what == "matmul" and len(sources) == 2 and sources[0] and shape_of(node):
        return math.prod(shape_of(node) or ()) * sources[0][-1]
    if what == "attention" and len(sources) >= 3 and sources[0] and sources[1] and sources[2]:
        query, keys, features = sources[0], sources[1][-2], sources[2][-1]
        return math.prod(query[:-1]) * keys * (query[-1] + features)
    return 0


def _pair(size: object) -> tuple[int, int]:
    if isinstance(size, tuple | list):
        return (int(size[0]), int(size[-1]))
    return (int(size), int(size))  # type: ignore[call-overload]


def _activation(node: fx.Node, norm: fx.Node | None) -> str | None:
    if norm is not None:
        inner = getattr(module_of(norm), "act", None)  # timm's BatchNormAct2d holds its activation
        if inner is not None and not isinstance(inner, nn.Identity):
            return type(inner).__name__.lower()
    behind = norm or node
    while len(behind.users) == 1:
        behind = next(iter(behind.users))
        if kind(behind) in ("activation", "sigmoid"):
            return activation_name(behind)
        if kind(behind) not in ("identity", "dropout"):
            return None
    return None


__all__ = ["LayerFacts", "NetworkFacts", "facts", "layer_macs"]

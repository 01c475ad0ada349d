"""Rewrites composite operators before quantization into a form that the runtime fuses."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from autocompress.graph.kinds import activation_name, kind, module_of
from autocompress.quantization.folding import affine, scale_outputs


def lower(module: fx.GraphModule, float_layers: Collection[str] = ()) -> None:
    """Rewrites a folded ``module`` in place; its outputs only change by rounding.

    Args:
        module: traced.
        float_layers: layers that stay in float, with the norms directly behind them.
    """
    _norms_to_convolutions(module, float_layers)
    _split_gated_activations(module)
    _rename_methods(module)
    tidy(module)


def tidy(module: fx.GraphModule) -> None:
    """The part of :func:`lower` that is also useful for a float model."""
    _drop_identities(module)
    _views_to_reshapes(module)
    _out_of_place(module)
    _fold_layer_scale(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()


class NormConvolution(nn.Conv2d):
    """A batch norm that could not be folded, as a depthwise 1x1 convolution on integers."""


def _norms_to_convolutions(module: fx.GraphModule, float_layers: Collection[str]) -> None:
    for node in module.graph.nodes:
        norm = module_of(node)
        if kind(node) != "norm" or type(norm) is not nn.BatchNorm2d:
            continue
        if any(source.op == "call_module" and source.target in float_layers for source in node.all_input_nodes):
            continue
        factor, offset = affine(norm)
        channels = len(factor)
        layer = NormConvolution(channels, channels, 1, groups=channels, device=factor.device, dtype=factor.dtype)
        with torch.no_grad():
            layer.weight.copy_(factor.reshape(-1, 1, 1, 1))
            assert layer.bias is not None
            layer.bias.copy_(offset)
        for name, child in norm.named_children():  # the activation inside it, which a node of its own calls
            layer.add_module(name, child)
        module.set_submodule(str(node.target), layer)


def _drop_identities(module: fx.GraphModule) -> None:
    """Removes operators without effect in eval mode, which would prevent fusions.

    A module that is one node may have a ``view`` inside, so it keeps its ``contiguous``.
    """
    identities = [
        node
        for node in module.graph.nodes
        if kind(node) in ("identity", "dropout") and isinstance(node.args[0], fx.Node)
    ]
    for node in sorted(identities, key=lambda node: node.target == "contiguous"):  # last: all else is gone by then
        if node.target == "contiguous" and any(
            user.op == "call_module" and kind(user) == "other" for user in node.users
        ):
            continue
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)


def _views_to_reshapes(module: fx.GraphModule) -> None:
    """Makes each ``view`` a ``reshape``, because the ``contiguous`` before it may be gone."""
    for node in module.graph.nodes:
        lengths = node.args[1:] or (node.kwargs.get("size"),)
        if node.op == "call_method" and node.target == "view" and all(map(_is_length, lengths)):
            node.target, node.args, node.kwargs = "reshape", (node.args[0], *lengths), {}


def _is_length(argument: Any) -> bool:
    """Whether an argument of ``view`` is one or several lengths; it may also be a dtype."""
    lengths = argument if isinstance(argument, tuple | list) else (argument,)
    return all(isinstance(length, int) or (isinstance(length, fx.Node) and not _is_dtype(length)) for length in lengths)


def _is_dtype(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is getattr and str(node.args[1]) == "dtype"


_OUT_OF_PLACE: dict[object, Callable[..., torch.Tensor]] = {operator.iadd: operator.add, operator.imul: operator.mul}


def _out_of_place(module: fx.GraphModule) -> None:
    """Makes operators work out of place, since a fake-quantizer may read their input too."""
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.target = _OUT_OF_PLACE.get(node.target, node.target)
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
        elif node.op == "call_method" and kind(node) != "other" and node.target.endswith("_"):
            node.target = node.target.rstrip("_")
        elif node.op == "call_module" and getattr(module_of(node), "inplace", False):
            module_of(node).inplace = False  # type: ignore[union-attr]


def _fold_layer_scale(module: fx.GraphModule) -> None:
    """Folds ``gamma * layer(x)`` with one constant per channel into the weights of the layer."""
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        if kind(node) != "multiply" or len(node.all_input_nodes) != 2:
            continue
        for source, scale in (node.all_input_nodes, node.all_input_nodes[::-1]):
            if kind(source) not in ("conv", "linear") or len(source.users) != 1 or calls[source.target] != 1:
                continue
            factor, layer = _constant(module, scale), module_of(source)
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            axis = -3 if isinstance(layer, nn.Conv2d) else -1
            channels = layer.weight.shape[0]
            if factor is None or factor.numel() != channels or factor.ndim < -axis or factor.shape[axis] != channels:
                continue
            scale_outputs(layer, factor.detach().reshape(-1))
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
            break


def _rename_methods(module: fx.GraphModule) -> None:
    """Renames nodes such as ``to``: no quantizer can have the name of a method of modules."""
    for node in module.graph.nodes:
        if hasattr(nn.Module, node.name):
            node._rename(f"{node.name}_value")


def _constant(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The value of a parameter, possibly behind a reshape with constant sizes; else None."""
    if kind(node) == "reshape" and node.op == "call_method" and len(node.all_input_nodes) == 1:
        inner = _constant(module, node.all_input_nodes[0])
        return None if inner is None else getattr(inner, str(node.target))(*node.args[1:])
    if node.op != "get_attr":
        return None
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value if isinstance(value, torch.Tensor) else None


def _split_gated_activations(module: fx.GraphModule) -> None:
    """Splits SiLU and hard swish into sigmoid and product, which have integer kernels."""
    gates: dict[str, Callable[..., torch.Tensor]] = {"silu": torch.sigmoid, "hardswish": F.hardsigmoid}
    for node in list(module.graph.nodes):
        gate = gates.get(activation_name(node)) if kind(node) == "activation" else None
        if gate is None:
            continue
        source = node.args[0]
        with module.graph.inserting_before(node):
            factor = module.graph.call_function(gate, (source,))
            product = module.graph.call_function(operator.mul, (source, factor))
        node.replace_all_uses_with(product)
        module.graph.erase_node(node)

"""Leaf layers: layers of plugins that stay whole in the graph, and their integer forms.

A leaf layer has no weight quantizer. Its weights use the grid of its input, which is quantized as
for a convolution. The plugin gives its integer form (``LayerSpec.simulated``, ``hardened``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from autocompress.contract import FakeQuantizer, LayerSpec


def leaf_types(specs: Sequence[LayerSpec]) -> tuple[type[nn.Module], ...]:
    """The layer types among ``specs`` that a traced graph keeps whole."""
    return tuple(spec.layer_type for spec in specs if spec.leaf)


def leaf_spec(layer: nn.Module | None, specs: Sequence[LayerSpec]) -> LayerSpec | None:
    """The spec of ``layer`` if it is a leaf layer, else None."""
    return next((spec for spec in specs if spec.leaf and isinstance(layer, spec.layer_type)), None)


def integer_leaves(model: nn.Module, config: Mapping[str, Any], specs: Sequence[LayerSpec]) -> dict[str, LayerSpec]:
    """The leaf layers that become integers, by name.

    ``config`` names them, and they have an integer form. In a traced model, a layer with several
    calls is left out, because a layer has one grid.

    Args:
        model: float.
        config: ``LayerBits`` by layer.
        specs: descriptions of the layer types that plugins bring.
    """
    if not any(spec.leaf for spec in specs):
        return {}
    graph = model.graph if isinstance(model, fx.GraphModule) else None
    calls = None if graph is None else Counter(node.target for node in graph.nodes if node.op == "call_module")
    found: dict[str, LayerSpec] = {}
    for name, layer in model.named_modules():
        spec, bits = leaf_spec(layer, specs), config.get(name)
        if spec is None or bits is None or bits.weight_quantizer is None or (calls is not None and calls[name] != 1):
            continue
        if spec.simulated(layer) is not None:
            found[name] = spec
    return found


def simulate(layer: nn.Module, spec: LayerSpec) -> nn.Module:
    """The simulated form of ``layer``, with its child ``norm``."""
    norm = getattr(layer, "norm", None)
    simulated = spec.simulated(layer)
    assert simulated is not None
    if norm is not None and getattr(simulated, "norm", None) is None:
        simulated.add_module("norm", norm)
    if getattr(simulated, "norm", None) is not norm:  # a class attribute of that name would hide the child
        raise TypeError(f"{type(simulated).__name__} must keep the normalisation of the layer as its child 'norm'")
    return simulated


def input_quantizer_of(layer: nn.Module) -> FakeQuantizer | None:
    """The quantizer of the tensor that a simulated layer reads; None for any other layer."""
    found = layer.__dict__.get("input_quantizer")
    return found if isinstance(found, FakeQuantizer) else None

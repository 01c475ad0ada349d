"""Plugins' layers that stay whole in the graph, and which of them become integers.

Such a layer has no weight quantizer: its weights take the grid of the tensor that it reads, which
placement quantizes as it would for a convolution. What its integers are is the plugin's business
(``LayerSpec.simulated``, ``hardened``).
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
    """What is known of ``layer``, where it is kept whole; else None."""
    return next((spec for spec in specs if spec.leaf and isinstance(layer, spec.layer_type)), None)


def integer_leaves(model: nn.Module, config: Mapping[str, Any], specs: Sequence[LayerSpec]) -> dict[str, LayerSpec]:
    """The leaf layers that become integers, by name.

    Those that ``config`` names and that have an integer form. In a traced model, not those that
    several calls share, as a layer has one grid.

    Args:
        model: float.
        config: ``LayerBits`` by layer.
        specs: of the layer types that plugins bring.
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
    """The simulated form of ``layer``, with the child ``norm`` that the layer was given."""
    norm = getattr(layer, "norm", None)
    simulated = spec.simulated(layer)
    assert simulated is not None
    if norm is not None and getattr(simulated, "norm", None) is None:
        simulated.add_module("norm", norm)
    if getattr(simulated, "norm", None) is not norm:  # a default in its class would hide the child
        raise TypeError(f"{type(simulated).__name__} must have the normalisation that it is given as its 'norm'")
    return simulated


def input_quantizer_of(layer: nn.Module) -> FakeQuantizer | None:
    """The quantizer of the tensor that a simulated layer reads; None for any other layer."""
    found = layer.__dict__.get("input_quantizer")
    return found if isinstance(found, FakeQuantizer) else None

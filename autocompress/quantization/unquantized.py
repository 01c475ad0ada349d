"""Finds the layers of a quantized network that still compute in float, for reports."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from autocompress.graph.kinds import LAYERS, kind, module_of
from autocompress.quantization.fakelayers import FakeLayer
from autocompress.quantization.layers import HardenedConv2d, HardenedLinear
from autocompress.quantization.leaves import input_quantizer_of

FLOAT_BITS = 32
_QUANTIZED = (FakeLayer, HardenedConv2d, HardenedLinear)


def float_layers(model: fx.GraphModule) -> list[str]:
    """Names of the layers that could not be quantized and stay in float, in network order.

    - Layers that should have bits but have no integer form: a padding other than zeros, weights
      that several calls share, a layer inside a block that cannot be traced.
    - Layers that are never quantized: those with weights of two or more dimensions that are
      neither ``nn.Conv2d`` nor ``nn.Linear`` (``Conv1d``, ``ConvTranspose2d``, ``Embedding``,
      ``MultiheadAttention``, ...), and products with a parameter outside of a layer.

    Layers that the recipe left in float are not named. Neither are layers that only have factors
    and offsets (layer norms, layer scales), since no bits can be chosen for them. See also
    :func:`asked_but_float`.

    Args:
        model: from ``harden``, ``rebuild`` or ``quantize``. For any other traced network, only the
            second kind is found.
    """
    asked, whole = _asked(model), model.meta.get("leaf_layers", ())
    names: dict[str, None] = {}
    for node in model.graph.nodes:
        if node.op == "call_module":
            layer = module_of(node)
            assert layer is not None
            by_choice = (kind(node) in LAYERS or node.target in whole) and node.target not in asked
            names |= {name: None for name in _weighted(str(node.target), layer) if not by_choice}
        elif node.op == "get_attr" and _is_weight(model, node):
            names[str(node.target).rpartition(".")[0] or str(node.target)] = None
    return list(names)


def asked_but_float(model: fx.GraphModule) -> list[str]:
    """The layers of :func:`float_layers` for which the recipe has bits."""
    asked = _asked(model)
    return [name for name in float_layers(model) if name in asked]


def _asked(model: fx.GraphModule) -> set[str]:
    planned = model.meta.get("plan", {}).get("layers", {})
    configured = model.meta.get("config", {})
    return {name for name, bits in planned.items() if bits["weight_quantizer"] is not None} | {
        name for name, bits in configured.items() if bits.weight_quantizer is not None
    }


def _weighted(name: str, layer: nn.Module) -> Iterator[str]:
    """``layer`` itself if it has weights, else the layers with weights inside it."""
    if isinstance(layer, _QUANTIZED) or input_quantizer_of(layer) is not None or _has_integers(layer):
        return
    if any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False)):
        yield name
        return
    for child, inner in layer.named_children():
        yield from _weighted(f"{name}.{child}", inner)


def _has_integers(layer: nn.Module) -> bool:
    """Whether this is a hardened layer: those of plugins have ``weight_bits`` too."""
    bits = getattr(layer, "weight_bits", None)
    return isinstance(bits, int) and bits < FLOAT_BITS


_PRODUCTS = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "bilinear",
     "embedding", "matmul", "bmm", "mm", "einsum", "multi_head_attention_forward"}
)  # fmt: skip


def _is_weight(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a product reads this parameter."""
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(model.get_submodule(owner), leaf, None)
    return isinstance(value, nn.Parameter) and value.ndim > 1 and any(_is_product(user) for user in node.users)


def _is_product(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", str(node.target)) in _PRODUCTS

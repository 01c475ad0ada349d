"""Parts of a model: first and last layers, convolutions to replace, and its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from autocompress.graph import LayerFacts

_LAYERS = (nn.Conv2d, nn.Linear)
_known: WeakKeyDictionary[nn.Module, tuple[object, Mapping[str, LayerFacts]]] = WeakKeyDictionary()
"""What :func:`_layers_of` found last for each model, and for which structure and input size."""


def device_of(model: nn.Module) -> torch.device:
    """The device of ``model``; the CPU for a model without parameters and buffers."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def stem(model: nn.Module) -> tuple[str, ...]:
    """Module names of the layers that read the image; RepVGG has two before merging."""
    return _special(model, "first_conv", position=0)


def classifier(model: nn.Module) -> tuple[str, ...]:
    """Module names of the layers that output the logits; empty for a model without a head."""
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    if not cfg.get("num_classes", 1):
        return ()
    return _special(model, "classifier", position=-1)


def first_inner_layer(model: nn.Module) -> str:
    """A clause on the first layer besides stem and classifier, for the reasons of methods.

    For example "its first layer besides stem and classifier, 'blocks.0.attn.qkv', is a linear
    layer".
    """
    exempt = {*stem(model), *classifier(model)}
    inner = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, _LAYERS))
    name, layer = next(((name, layer) for name, layer in inner if name not in exempt), ("", None))
    if layer is None:
        return "it has no layers besides stem and classifier"
    kind = "a linear layer"
    if isinstance(layer, nn.Conv2d):
        size = " x ".join(map(str, layer.kernel_size))
        groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
        kind = f"a {size} convolution from {layer.in_channels} to {layer.out_channels} channels{groups}"
    return f"its first layer besides stem and classifier, '{name}', is {kind}"


def _special(model: nn.Module, key: str, position: int) -> tuple[str, ...]:
    """The layers that timm's ``pretrained_cfg`` names under ``key``, also in merged blocks."""
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, _LAYERS)]
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    named = cfg.get(key) or ()
    found: list[str] = []
    for name in (named,) if isinstance(named, str) else named:
        found += _layers_at(name, layers)
    if not found and layers:
        found = [layers[position]]
    return tuple(dict.fromkeys(found))


def _layers_at(name: str, layers: list[str]) -> list[str]:
    """The layer ``name``, else the first layer inside it, else inside the nearest outer block."""
    if name in layers:
        return [name]
    while name:
        inside = [layer for layer in layers if layer.startswith(f"{name}.")]
        if inside:
            return inside[:1]
        name = name.rpartition(".")[0]
    return []


def eligible_convolutions(
    model: nn.Module, input_size: tuple[int, int, int] | None = None, *, min_channels: int = 16
) -> list[str]:
    """Names of the convolutions that a substitution may replace, in network order.

    These are Conv2d without groups and with at least ``min_channels`` outputs. Stem, classifier
    and squeeze-and-excitation gates are left out.

    Args:
        model: the baseline.
        input_size: (channels, height, width); None for the input size of the model.
        min_channels: minimum number of output channels of a convolution to replace.
    """
    from autocompress.models.architecture import input_size as own_size

    exempt = {*stem(model), *classifier(model)}
    modules = dict(model.named_modules())
    return [
        name
        for name, layer in _layers_of(model, input_size or own_size(model)).items()
        if isinstance(modules.get(name), nn.Conv2d)
        and name not in exempt
        and layer.groups == 1
        and layer.out_channels >= min_channels
        and not (layer.in_gate or layer.is_input or layer.is_output)
    ]


def _layers_of(model: nn.Module, input_size: tuple[int, int, int]) -> Mapping[str, LayerFacts]:
    """Facts about the layers of ``model``.

    Every recipe that a search composes asks for them. So they are kept until the text of the model
    changes, which shows its structure.
    """
    from autocompress.graph import facts

    asked = (str(model), input_size)  # of a traced model, the text has its code too
    if model not in _known or _known[model][0] != asked:
        _known[model] = (asked, facts(model, input_size).layers)
    return _known[model][1]

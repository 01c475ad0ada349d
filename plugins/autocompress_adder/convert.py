"""Replaces convolutions by adder layers, from a JSON plan, for ``apply`` and ``rebuild``.

Convolutions, and layers with a batch normalisation of their own, are chosen from the traced graph,
never from weights, so that a dry run gives the same structure as the real run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from timm.layers import Conv2dSame
from torch import nn

from autocompress import models
from autocompress.graph import facts
from autocompress_adder.layer import AdderConv2d

LayerPlan = dict[str, Any]
"""``norm``: whether the layer has its own batch normalisation."""


def eligible(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> list[str]:
    """Names of the convolutions of ``model`` that can become adder layers, in network order.

    They have square kernels, no groups, no dilation and zero padding. Stem, classifier and
    squeeze-and-excitation gates are left out. The 1 x 1 convolutions of shortcuts are included, as
    in the official code.

    Raises:
        UntraceableModel: if the model cannot be traced.
    """
    names = models.eligible_convolutions(model, input_size, min_channels=1)
    return [name for name in names if padding_of(model.get_submodule(name)) is not None]


def padding_of(conv: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the zero padding; None if ``conv`` cannot become an adder layer."""
    if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, Conv2dSame):
        return None
    kernel = conv.kernel_size
    if conv.groups != 1 or tuple(conv.dilation) != (1, 1) or conv.padding_mode != "zeros" or kernel[0] != kernel[1]:
        return None
    if conv.padding == "same" or type(conv) is Conv2dSame:
        even = tuple(conv.stride) == (1, 1) and kernel[0] % 2 == 1  # else the zeros are uneven, or depend on the size
        return (kernel[0] // 2, kernel[0] // 2) if even else None
    if isinstance(conv.padding, str):
        return (0, 0)  # "valid"
    return int(conv.padding[0]), int(conv.padding[1])


def layer_plans(model: nn.Module, wanted: Iterable[str], input_size: tuple[int, int, int]) -> dict[str, LayerPlan]:
    """The plan: eligible convolutions that ``wanted`` names, or inside modules that it names."""
    network = facts(model, input_size, (AdderConv2d,))
    calls = Counter(str(node.target) for node in network.graph.graph.nodes if node.op == "call_module")
    prefixes = list(wanted)
    plans: dict[str, LayerPlan] = {}
    for name in eligible(model, input_size):
        if calls[name] == 1 and any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            behind = network.layers[name].norm
            has_norm = behind is not None and calls[behind] == 1 and _normalises(model.get_submodule(behind))
            plans[name] = {"norm": not has_norm}
    return plans


def _normalises(norm: nn.Module) -> bool:
    """Whether it is a batch norm whose statistics can be reset, unlike timm's frozen ones."""
    return isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats


def build(conv: nn.Module, plan: LayerPlan) -> AdderConv2d:
    """The adder layer for ``conv``, with weights from N(0, 1) and its bias, on its device."""
    padding = padding_of(conv)
    assert isinstance(conv, nn.Conv2d)
    assert padding is not None
    stride = int(conv.stride[0]), int(conv.stride[1])
    size = conv.in_channels, conv.out_channels, conv.kernel_size[0]
    layer = AdderConv2d(*size, stride, padding, norm=plan["norm"])
    if conv.bias is not None:
        layer.bias.data.copy_(conv.bias.detach())
    return layer.to(conv.weight.device)


def insert(model: nn.Module, layers: dict[str, AdderConv2d]) -> None:
    """Replaces each convolution by its layer, under the same name."""
    for name, layer in layers.items():
        model.set_submodule(name, layer)


def adder_layers(model: nn.Module) -> dict[str, AdderConv2d]:
    """Adder layers that can train (a hardened one cannot), by name, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AdderConv2d) and isinstance(module.weight, nn.Parameter)
    }

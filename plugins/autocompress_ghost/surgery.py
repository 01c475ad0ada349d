"""Puts ghost modules into a network by a JSON plan, for ``apply`` and ``rebuild``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from autocompress_ghost.hosts import Host
from autocompress_ghost.module import GhostConv2d

LayerPlan = dict[str, Any]
"""Keys: ``ratio``, ``kernel``, ``variant``, ``takes_over``, ``folded``, ``norms``, ``order``.

``takes_over`` and ``folded`` are module paths, ``norms`` the permuted ones.
"""


def layer_plan(host: Host, ratio: int, kernel: int, variant: str, channels: int) -> LayerPlan:
    """The plan for one layer.

    ``variant`` is the wanted one; a layer that cannot be activated stays bare.
    """
    activated = variant == "bn-act" and bool(host.takes_over)
    taken = list(host.takes_over) if activated else []
    return {
        "ratio": ratio,
        "kernel": kernel,
        "variant": "bn-act" if activated else "bare",
        "takes_over": taken,
        "folded": list(host.readers),
        "norms": [norm for norm in host.norms_between if norm not in taken],
        "order": list(range(channels)),
    }


def taken_norm(model: nn.Module, plan: LayerPlan) -> nn.BatchNorm2d | None:
    """The host's normalisation that an activated module takes over."""
    if not plan["takes_over"]:
        return None
    norm = model.get_submodule(plan["takes_over"][0])
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def taken_activation(model: nn.Module, plan: LayerPlan) -> nn.Module | None:
    """The activation that an activated module takes over, in or behind the norm."""
    norm = taken_norm(model, plan)
    if isinstance(norm, BatchNormAct2d):
        return None if isinstance(norm.act, nn.Identity) else norm.act
    return model.get_submodule(plan["takes_over"][1]) if len(plan["takes_over"]) > 1 else None


def build(model: nn.Module, name: str, plan: LayerPlan) -> GhostConv2d:
    """The module for the convolution ``name``, with fresh weights, not yet in ``model``."""
    host = model.get_submodule(name)
    assert isinstance(host, nn.Conv2d)
    return GhostConv2d(
        host,
        plan["ratio"],
        plan["kernel"],
        norm=taken_norm(model, plan),
        activation=taken_activation(model, plan),
        order=plan["order"],
        restore=not plan["folded"],
    )


def insert(model: nn.Module, name: str, module: GhostConv2d, plan: LayerPlan) -> None:
    """Replaces the convolution by ``module``, and removes the modules that it has taken over."""
    model.set_submodule(name, module)
    for path in plan["takes_over"]:
        model.set_submodule(path, nn.Identity())


@torch.no_grad()
def fold_order(model: nn.Module, plan: LayerPlan, order: Sequence[int]) -> None:
    """Permutes the readers of the module's channels, so that channels need no reordering."""
    index = torch.as_tensor(order, dtype=torch.int64)
    for path in plan["norms"]:
        norm = model.get_submodule(path)
        for tensor in (*norm.parameters(recurse=False), norm.running_mean, norm.running_var):
            if isinstance(tensor, torch.Tensor):
                tensor.copy_(tensor[index.to(tensor.device)])
    for path in plan["folded"]:
        reader = model.get_submodule(path)
        weight = reader.primary.weight if isinstance(reader, GhostConv2d) else reader.weight
        assert isinstance(weight, torch.Tensor)
        weight.copy_(weight[:, index.to(weight.device)])

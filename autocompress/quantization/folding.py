"""Batch normalisation folded into the layer in front of it (quant-whitepaper, eq. 20-21)."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn

from autocompress.graph.kinds import kind, module_of
from autocompress.graph.trace import evaluating, trace


def fold_batch_norm(model: nn.Module) -> fx.GraphModule:
    """A traced copy of ``model`` in eval mode, with every batch normalisation folded whose input is a convolution's or
    linear layer's output that nothing else reads.

    ``W' = W * gamma / sigma`` for each output channel, ``b' = beta + (b - mean) * gamma / sigma``, with
    ``sigma = sqrt(variance + eps)``. The activation inside timm's ``BatchNormAct2d`` becomes a node of its own, also
    where the normalisation cannot be folded. Outputs are those of ``model`` in eval mode up to rounding.

    Raises:
        UntraceableModel: if ``model`` cannot be traced.
    """
    with evaluating(model):
        module = copy.deepcopy(model if isinstance(model, fx.GraphModule) else trace(model))
    module.eval()
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        if kind(node) != "norm":
            continue
        norm = module_of(node)
        assert norm is not None
        _split_activation(node, norm)
        source = node.args[0]
        if isinstance(source, fx.Node) and _foldable(source, norm, calls):
            layer = module_of(source)
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            _fold(layer, norm)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
            _leave_only_children(module, str(node.target))
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return module


def affine(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(factor, offset) of a batch normalisation in eval mode, one each a channel: ``y = x * factor + offset``."""
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, torch.Tensor)
    assert isinstance(variance, torch.Tensor)
    factor = torch.rsqrt(variance + float(norm.eps))  # type: ignore[arg-type]
    if isinstance(norm.weight, torch.Tensor):
        factor = factor * norm.weight.detach()
    offset = -mean * factor
    if isinstance(norm.bias, torch.Tensor):
        offset = offset + norm.bias.detach()
    return factor, offset


def scale_outputs(layer: nn.Conv2d | nn.Linear, factor: torch.Tensor, offset: torch.Tensor | None = None) -> None:
    """Changes ``layer`` so that output channel ``c`` becomes ``factor[c] * y + offset[c]``."""
    with torch.no_grad():
        weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        bias = layer.bias * factor if layer.bias is not None else torch.zeros_like(factor)
        if offset is not None:
            bias = bias + offset
        layer.weight = nn.Parameter(weight)
        if layer.bias is not None or offset is not None:
            layer.bias = nn.Parameter(bias)


def _leave_only_children(module: fx.GraphModule, path: str) -> None:
    """Puts an empty module where a folded norm was, for the activation that it may hold."""
    empty = nn.Module()
    for name, child in module.get_submodule(path).named_children():
        empty.add_module(name, child)
    module.set_submodule(path, empty)


def _foldable(source: fx.Node, norm: nn.Module, calls: Counter[object]) -> bool:
    if kind(source) not in ("conv", "linear") or len(source.users) != 1 or calls[source.target] != 1:
        return False
    if kind(source) == "linear" and not isinstance(norm, nn.BatchNorm1d):
        return False
    return isinstance(getattr(norm, "running_mean", None), torch.Tensor)


def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.Module) -> None:
    factor, offset = affine(norm)
    scale_outputs(layer, factor, offset)


def _split_activation(node: fx.Node, norm: nn.Module) -> None:
    """Gives the activation inside a BatchNormAct2d a node of its own, ``<norm>.act``, and leaves a plain norm."""
    act = getattr(norm, "act", None)
    if act is None or type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=False)  # type: ignore[arg-type]
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var  # type: ignore[assignment]
    for name in ("weight", "bias"):
        value = getattr(norm, name)
        setattr(plain, name, None if value is None else nn.Parameter(value.detach(), requires_grad=value.requires_grad))
    plain.add_module("act", act)
    plain.eval()
    owner = node.graph.owning_module
    assert owner is not None
    path = str(node.target)
    owner.set_submodule(path, plain)
    if isinstance(act, nn.Identity):
        return
    with node.graph.inserting_after(node):
        behind = node.graph.call_module(f"{path}.act", (node,))
    node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)

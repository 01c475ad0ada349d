"""Batch normalisation folded into the layer in front of it (quant-whitepaper, eq. 20-21)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Container, Sequence

import torch
from timm.layers import FrozenBatchNormAct2d
from torch import fx, nn

from autocompress.contract import LayerSpec
from autocompress.graph.kinds import kind, module_of
from autocompress.graph.plain import plain_convolutions
from autocompress.graph.trace import evaluating, trace
from autocompress.quantization.leaves import leaf_spec, leaf_types


def fold_batch_norm(model: nn.Module, keep: Container[str] = (), specs: Sequence[LayerSpec] = ()) -> fx.GraphModule:
    """A traced copy of ``model`` in eval mode with folded batch norms.

    A batch norm is folded if it is the only reader of a convolution or linear layer.

    ``W' = W * gamma / sigma`` for each output channel, ``b' = beta + (b - mean) * gamma / sigma``,
    with ``sigma = sqrt(variance + eps)``. The activation inside timm's ``BatchNormAct2d`` becomes a
    node of its own, also where the normalisation cannot be folded. Outputs are those of ``model``
    in eval mode up to rounding.

    Args:
        model: it is not changed.
        keep: names of layers that will train with their norm. The norm becomes their child
            ``norm``, and their parameters are unchanged. The network lacks these norms until the
            layers get a forward that uses them. ``keep`` may also name leaf layers of plugins,
            even if nothing trains.
        specs: descriptions of the layer types that plugins bring. Leaf layers stay whole. A norm
            behind one is unchanged unless ``keep`` names the layer, because it cannot be folded
            here.

    Raises:
        UntraceableModel: if ``model`` cannot be traced.
    """
    with evaluating(model):
        module = copy.deepcopy(model)
        if not isinstance(module, fx.GraphModule):
            module = trace(module, leaf_types(specs))
        plain_convolutions(module)
    module.eval()
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        if kind(node) != "norm":
            continue
        source, norm = node.args[0], module_of(node)
        assert norm is not None
        trains = not isinstance(norm, FrozenBatchNormAct2d)
        norm = _split_activation(node, norm)
        if not isinstance(source, fx.Node):
            continue
        layer = module_of(source)
        kept, leaf = str(source.target) in keep, leaf_spec(layer, specs) is not None
        if _alone_behind(source, norm, calls) and (_takes(layer, kept) if leaf else _foldable(source, norm)):
            assert layer is not None
            if kept and (trains or leaf):
                layer.add_module("norm", _alone(norm))
            else:
                assert isinstance(layer, nn.Conv2d | nn.Linear)
                fold(layer, norm)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
            _leave_only_children(module, str(node.target))
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return module


def affine(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(factor, offset) by channel of a batch norm in eval mode: ``y = x * factor + offset``.

    Gradients reach its affine parameters.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, torch.Tensor)
    assert isinstance(variance, torch.Tensor)
    factor = torch.rsqrt(variance + float(norm.eps))  # type: ignore[arg-type]
    if isinstance(norm.weight, torch.Tensor):
        factor = factor * norm.weight
    offset = -mean * factor
    if isinstance(norm.bias, torch.Tensor):
        offset = offset + norm.bias
    return factor, offset


def scale_outputs(layer: nn.Conv2d | nn.Linear, factor: torch.Tensor, offset: torch.Tensor | None = None) -> None:
    """Changes ``layer`` so that output channel ``c`` becomes ``factor[c] * y + offset[c]``.

    If the layer has a child ``norm``, the norm is changed instead.
    """
    norm = getattr(layer, "norm", None)
    with torch.no_grad():
        if norm is not None:
            norm.weight.mul_(factor)
            norm.bias.mul_(factor).add_(0.0 if offset is None else offset)
            return
        weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        bias = layer.bias * factor if layer.bias is not None else torch.zeros_like(factor)
        if offset is not None:
            bias = bias + offset
        layer.weight = nn.Parameter(weight)
        if layer.bias is not None or offset is not None:
            layer.bias = nn.Parameter(bias)


def _leave_only_children(module: fx.GraphModule, path: str) -> None:
    """Replaces a folded norm by an empty module, which holds its activation, if any."""
    empty = nn.Module()
    for name, child in module.get_submodule(path).named_children():
        empty.add_module(name, child)
    module.set_submodule(path, empty)


def _alone_behind(source: fx.Node, norm: nn.Module, calls: Counter[object]) -> bool:
    """Whether the layer is called once and only ``norm``, with running statistics, reads it."""
    alone = len(source.users) == 1 and calls[source.target] == 1
    return alone and isinstance(getattr(norm, "running_mean", None), torch.Tensor)


def _foldable(source: fx.Node, norm: nn.Module) -> bool:
    return kind(source) == "conv" or (kind(source) == "linear" and isinstance(norm, nn.BatchNorm1d))


def _takes(leaf: nn.Module | None, kept: bool) -> bool:
    """Whether the norm becomes the child of a leaf layer."""
    return kept and getattr(leaf, "norm", None) is None


def fold(layer: nn.Conv2d | nn.Linear, norm: nn.Module) -> None:
    """Folds the long-term statistics and affine parameters of ``norm`` into ``layer``."""
    factor, offset = affine(norm)
    scale_outputs(layer, factor.detach(), offset.detach())


def _alone(norm: nn.Module) -> nn.Module:
    """A copy of a batch norm without children, with affine parameters."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    plain = type(norm)(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    own = plain.state_dict()  # without parameters of a child, and with affine ones if the norm has none
    plain.load_state_dict(own | {name: value for name, value in norm.state_dict().items() if name in own})
    return plain.to(next(norm.buffers()).device).eval()


def _split_activation(node: fx.Node, norm: nn.Module) -> nn.Module:
    """Moves a BatchNormAct2d's activation to the node ``<norm>.act``; returns the plain norm."""
    act = getattr(norm, "act", None)
    if act is None or type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return norm
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=False)  # type: ignore[arg-type]
    plain.momentum = getattr(norm, "momentum", plain.momentum)
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
    if not isinstance(act, nn.Identity):
        with node.graph.inserting_after(node):
            behind = node.graph.call_module(f"{path}.act", (node,))
        node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)
    return plain

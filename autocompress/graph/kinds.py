"""The kind of a graph node, equal for modules, functions and tensor methods."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, Linear
from timm.layers.padding import pad_same
from torch import fx, nn

NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    BatchNormAct2d,
    FrozenBatchNormAct2d,
)
"""Batch normalisations: in eval mode an affine function per channel."""

_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    nn.Identity: "identity",
    nn.Dropout: "dropout",
    nn.Dropout1d: "dropout",
    nn.Dropout2d: "dropout",
    nn.Dropout3d: "dropout",
    nn.AlphaDropout: "dropout",
    nn.Flatten: "reshape",
    nn.Unflatten: "reshape",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "average_pool",
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.Softmax: "softmax",
    nn.PixelShuffle: "transpose",
    nn.ChannelShuffle: "transpose",
    nn.Sigmoid: "sigmoid",
    nn.ZeroPad2d: "pad",
}
_ACTIVATION_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip
_FUNCTIONS: dict[Callable[..., Any], str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "multiply",
    operator.imul: "multiply",
    torch.mul: "multiply",
    operator.matmul: "matmul",
    torch.matmul: "matmul",
    torch.bmm: "matmul",
    F.scaled_dot_product_attention: "attention",
    torch.cat: "concat",
    torch.concat: "concat",
    torch.flatten: "reshape",
    torch.reshape: "reshape",
    torch.squeeze: "reshape",
    torch.unsqueeze: "reshape",
    torch.permute: "transpose",
    torch.transpose: "transpose",
    torch.chunk: "split",
    torch.split: "split",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    F.layer_norm: "layer_norm",
    F.dropout: "dropout",
    F.dropout2d: "dropout",
    F.max_pool2d: "max_pool",
    F.avg_pool2d: "average_pool",
    F.pad: "pad",
    pad_same: "pad",
    operator.getitem: "getitem",
    torch.index_select: "getitem",
}
_ACTIVATION_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid,
    F.tanh, torch.tanh, torch.relu, F.softplus,
)  # fmt: skip
_METHODS: dict[str, str] = {
    "add": "add", "add_": "add", "mul": "multiply", "mul_": "multiply", "matmul": "matmul", "flatten": "reshape",
    "reshape": "reshape", "view": "reshape", "squeeze": "reshape", "unsqueeze": "reshape", "permute": "transpose",
    "transpose": "transpose", "chunk": "split", "split": "split", "unbind": "split", "contiguous": "identity",
    "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "softmax": "softmax", "index_select": "getitem",
}  # fmt: skip
_ACTIVATION_METHODS = {"relu", "relu_", "tanh", "clamp", "clamp_"}
_SPATIAL = {(2, 3), (-2, -1), (3, 2), (-1, -2)}

LAYERS = frozenset({"conv", "linear"})
"""Operators with weights."""

UNARY = frozenset({"norm", "activation", "sigmoid", "identity", "dropout", "max_pool", "average_pool", "global_pool"})
"""Operators that act on each channel separately and equally, up to a factor and an offset."""


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls, else None."""
    if node.op != "call_module":
        return None
    owner = node.graph.owning_module
    assert owner is not None
    return owner.get_submodule(str(node.target))


def kind(node: fx.Node) -> str:
    """The kind of ``node`` as one word; ``"other"`` for unknown operators.

    "conv" and "linear" are torch's layers. A subclass with another forward is "other".
    """
    if node.op in ("placeholder", "output", "get_attr"):
        return {"placeholder": "input", "output": "output", "get_attr": "parameter"}[node.op]
    if node.op == "call_module":
        return _module_kind(module_of(node))
    if node.op == "call_function":
        return _call_kind(node, _FUNCTIONS.get(node.target), node.target in _ACTIVATION_FUNCTIONS)  # type: ignore[arg-type]
    name = str(node.target)
    return _call_kind(node, _METHODS.get(name), name in _ACTIVATION_METHODS)


def _module_kind(module: nn.Module | None) -> str:
    assert module is not None
    if isinstance(module, NORM_TYPES):
        return "norm"
    if isinstance(module, _ACTIVATION_MODULES):
        return "activation"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "global_pool" if module.output_size in (1, (1, 1)) else "other"
    for known, name in _MODULES.items():
        if isinstance(module, known):
            return name if type(module).forward in (known.forward, Linear.forward) else "other"
    return "other"


def _call_kind(node: fx.Node, name: str | None, activation: bool) -> str:
    if activation:
        return "activation"
    if _is_mean(node):
        return "global_pool" if is_spatial_mean(node) else "other"
    if node.target is F.adaptive_avg_pool2d:
        return "global_pool" if node.args[1:2] in ((1,), ((1, 1),)) else "other"
    if name == "getitem" and not isinstance(node.args[0], fx.Node):
        return "other"
    return name or "other"


def _is_mean(node: fx.Node) -> bool:
    return node.target in (torch.mean, "mean")


def is_spatial_mean(node: fx.Node) -> bool:
    """``x.mean((2, 3))`` of an NCHW tensor, with or without keepdim."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dims, list | tuple):
        return False
    return tuple(dims) in _SPATIAL and (dims[0] > 0 or rank(node.all_input_nodes[0]) in (4, None))


def rank(node: fx.Node) -> int | None:
    """Number of dimensions of the tensor of a node; None where shapes were not propagated."""
    shape = shape_of(node)
    return None if shape is None else len(shape)


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the tensor of a node; None where shapes were not propagated."""
    shape: tuple[int, ...] | None = node.meta.get("shape")
    return shape


def activation_name(node: fx.Node) -> str:
    """Lower-case name of the activation that ``node`` applies, such as ``relu`` or ``silu``."""
    module = module_of(node)
    if module is not None:
        return type(module).__name__.lower()
    target = node.target
    return (target if isinstance(target, str) else getattr(target, "__name__", str(target))).rstrip("_").lower()


def pads_zeros(node: fx.Node) -> bool:
    """Whether ``node`` only pads its input with zeros."""
    if kind(node) != "pad":
        return False
    if node.op == "call_module":  # nn.ZeroPad2d
        return True
    # pad_same(x, kernel_size, stride, dilation, value), pad(x, pad, mode, value)
    first, names = (3, ("dilation", "value")) if node.target is pad_same else (2, ("mode", "value"))
    given = dict(zip(names, node.args[first:], strict=False)) | node.kwargs
    return bool(given.get("mode", "constant") == "constant" and not given.get("value"))


def clip_range(node: fx.Node) -> tuple[float, float] | None:
    """(low, high) of an activation that only clips (ReLU, ReLU6, clamp); None for others."""
    if kind(node) != "activation":
        return None
    module, name = module_of(node), activation_name(node)
    if name == "relu":
        return 0.0, math.inf
    if name == "relu6":
        return 0.0, 6.0
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    if name == "clamp":
        bounds = dict(zip(("min", "max"), node.args[1:], strict=False)) | dict(node.kwargs)
        low, high = bounds.get("min"), bounds.get("max")
        if isinstance(low, int | float | None) and isinstance(high, int | float | None):
            return -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return None

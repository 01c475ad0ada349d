"""Cross-layer equalisation: scales channels so that their ranges in both layers are equal.

Nagel, van Baalen, Blankevoort, Welling: "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019 (arXiv 1906.04721), section 4.1. Between two layers with a function
``f(s x) = s f(x)`` for ``s > 0``:

    W2 f(W1 x + b1) = (W2 S) f(S^-1 W1 x + S^-1 b1)                        eq. 6 and 7
    s_i = sqrt(r1_i r2_i) / r2_i,  r1_i = max|W1[i, :]|, r2_i = max|W2[:, i]|        eq. 11

Deliberate differences from the paper: a scale is bounded so that no bias becomes larger than the
largest of its layer (the paper lets biases grow and moves them into the next layer, section 4.1.3),
and scales are not moved across ReLU6 (the paper replaces it by ReLU, which changes the network).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from autocompress.graph.kinds import LAYERS, activation_name, clip_range, kind, module_of, pads_zeros, shape_of
from autocompress.quantization.folding import affine, scale_outputs

MOST_SWEEPS = 40
SETTLED = 1e-3
"""The sweeps over all pairs end when no factor changes by more than this share."""
WIDEST = 2.0**13
"""Largest factor of a channel; the smallest is its inverse."""
_HOMOGENEOUS = frozenset({"relu", "leakyrelu", "leaky_relu", "prelu"})
_CHANNELWISE = frozenset({"max_pool", "average_pool", "global_pool"})


def equalise(module: fx.GraphModule) -> int:
    """Equalises weight ranges of consecutive layers in place; outputs change by rounding only.

    A pair is two convolution or linear layers, where only the second reads the output of the first.
    Between them there may be ReLU, leaky ReLU, PReLU, pooling, dropout, padding with zeros and
    flattening of one value per channel. A chain of three layers with a depthwise layer in the
    middle has two pairs. All pairs are visited again until no factor changes.

    Args:
        module: traced and lowered, with batch norms folded or in a child ``norm`` of their layer.
            Ranges are those of the weights with norms folded in.

    Returns:
        Number of equalised pairs.
    """
    pairs = _pairs(module)
    for _ in range(MOST_SWEEPS):
        if max((pair.step() for pair in pairs), default=0.0) < SETTLED:
            break
    for pair in pairs:
        pair.apply()
    return len(pairs)


@dataclass
class _Side:
    """A layer for equalisation: the largest magnitude for each input and output channel."""

    layer: nn.Conv2d | nn.Linear
    magnitude: torch.Tensor  # float64 (groups, outputs per group, inputs per group)

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.Linear) -> _Side:
        weight, norm = layer.weight.detach().double(), getattr(layer, "norm", None)
        if norm is not None:
            weight = weight * affine(norm)[0].detach().double().reshape(-1, *[1] * (weight.ndim - 1))
        groups = int(getattr(layer, "groups", 1))
        return cls(
            layer, weight.abs().flatten(1).unflatten(1, (weight.shape[1], -1)).amax(2).unflatten(0, (groups, -1))
        )

    def of_outputs(self) -> torch.Tensor:
        return self.magnitude.amax(2).flatten()

    def of_inputs(self) -> torch.Tensor:
        return self.magnitude.amax(1).flatten()

    def scale_outputs(self, factor: torch.Tensor) -> None:
        self.magnitude = self.magnitude * factor.reshape(*self.magnitude.shape[:2], 1)

    def scale_inputs(self, factor: torch.Tensor) -> None:
        groups, _, inputs = self.magnitude.shape
        self.magnitude = self.magnitude * factor.reshape(groups, 1, inputs)

    def bias(self) -> torch.Tensor | None:
        """The bias with the norm folded in."""
        norm, bias = getattr(self.layer, "norm", None), self.layer.bias
        if norm is None:
            return None if bias is None else bias.detach().double()
        factor, offset = affine(norm)
        return (offset if bias is None else offset + bias * factor).detach().double()


@dataclass
class _Pair:
    """``first`` divides by the scale, ``second`` multiplies by it."""

    first: _Side
    second: _Side
    scale: torch.Tensor = field(init=False)  # float64 (channels,)
    least: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.scale = torch.ones_like(self.first.of_outputs())
        self.least = torch.full_like(self.scale, 1 / WIDEST)
        bias = self.first.bias()
        if bias is not None and bool(bias.any()):
            self.least = torch.maximum(self.least, bias.abs() / bias.abs().max())

    def step(self) -> float:
        """Applies eq. 11 once; returns the largest relative change of a factor."""
        before, behind = self.first.of_outputs(), self.second.of_inputs()
        alive = (before > 0) & (behind > 0) & before.isfinite() & behind.isfinite()  # a dead channel has no range
        wanted = torch.where(alive, (before / behind).sqrt(), 1.0)
        scale = torch.where(alive, (self.scale * wanted).clamp(max=WIDEST).maximum(self.least), self.scale)
        change, self.scale = scale / self.scale, scale
        self.first.scale_outputs(1 / change)
        self.second.scale_inputs(change)
        return float(change.log().abs().max())

    def apply(self) -> None:
        """Puts the factors into the layers."""
        with torch.no_grad():
            first, second = self.first.layer, self.second.layer
            scale_outputs(first, (1 / self.scale).to(first.weight))
            groups, outputs, inputs = self.second.magnitude.shape
            factor = self.scale.to(second.weight).reshape(groups, 1, inputs).expand(-1, outputs, -1).flatten(0, 1)
            second.weight.mul_(factor.reshape(*factor.shape, *[1] * (second.weight.ndim - 2)))


def _pairs(module: fx.GraphModule) -> list[_Pair]:
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    sides: dict[str, _Side] = {}

    def side(node: fx.Node) -> _Side:
        layer = module_of(node)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return sides.setdefault(str(node.target), _Side.of(layer))

    pairs = []
    for node in module.graph.nodes:
        if kind(node) in LAYERS and calls[node.target] == 1:
            reader = _only_layer_behind(node)
            if reader is not None and calls[reader.target] == 1:
                pairs.append(_Pair(side(node), side(reader)))
    return pairs


def _only_layer_behind(layer: fx.Node) -> fx.Node | None:
    """The only layer that reads ``layer``, if all operators in between are homogeneous.

    An operator is homogeneous if scaling a channel of its input scales that channel of its output.
    """
    node, is_flat, is_pooled = layer, kind(layer) == "linear", False
    while len(node.users) == 1:
        user = next(iter(node.users))
        what = kind(user)
        if what in LAYERS:
            # Channels are the second axis of a convolution's input, and the last of a linear
            # layer's.
            return user if user.args[0] is node and is_flat == (what == "linear") else None
        if user.all_input_nodes != [node]:
            return None
        if what == "reshape" and not is_flat and (is_pooled or _has_one_value_a_channel(node)) and _flattens(user):
            is_flat = True
        elif what in _CHANNELWISE and not is_flat:
            is_pooled = is_pooled or what == "global_pool"
            is_flat = what == "global_pool" and _drops_positions(user)
        elif not (what in ("identity", "dropout") or _is_homogeneous(user) or (_pads_positions(user) and not is_flat)):
            return None
        node = user
    return None


def _is_homogeneous(node: fx.Node) -> bool:
    """Whether the activation of ``s x`` is ``s`` times that of ``x`` for every ``s > 0``."""
    if kind(node) != "activation":
        return False
    return activation_name(node) in _HOMOGENEOUS or clip_range(node) == (0.0, math.inf)


def _pads_positions(node: fx.Node) -> bool:
    """Whether the node pads height and width with zeros."""
    if not pads_zeros(node):
        return False
    sizes = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad", ())
    return isinstance(sizes, int) or (isinstance(sizes, list | tuple) and len(sizes) <= 4)


def _drops_positions(node: fx.Node) -> bool:
    """Whether the node is a mean over positions with a result of ``(N, C)``."""
    if node.op == "call_module" or node.target is F.adaptive_avg_pool2d:
        return False
    return not (node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))


def _has_one_value_a_channel(node: fx.Node) -> bool:
    shape = shape_of(node)
    return shape is not None and len(shape) == 4 and shape[2:] == (1, 1)


def _flattens(node: fx.Node) -> bool:
    """Whether the node is ``flatten(1)`` from ``(N, C, 1, 1)`` to ``(N, C)``.

    Other reshapes may split the channels.
    """
    layer = module_of(node)
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if node.target not in (torch.flatten, "flatten"):
        return False
    arguments = dict(zip(("input", "start_dim", "end_dim"), node.args, strict=False)) | dict(node.kwargs)
    return (arguments.get("start_dim"), arguments.get("end_dim", -1)) == (1, -1)

"""Replaces special convolutions of timm by padding and a plain layer, equal in eval mode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import fx, nn

from autocompress.graph.kinds import module_of

_SCALED = (ScaledStdConv2d, ScaledStdConv2dSame)
_STANDARDISED = (StdConv2d, StdConv2dSame, *_SCALED)


def plain_convolutions(module: fx.GraphModule) -> None:
    """Rewrites ``module`` in place; layers keep their names, and outputs are exactly the same.

    - ``Conv2dSame``: TensorFlow's padding, which depends on the image size and may be uneven,
      becomes a node of its own (:func:`timm.layers.padding.pad_same`) in front of a plain
      convolution.
    - ``StdConv2d``, ``ScaledStdConv2d`` and their "same" forms: the standardised weight
      (arXiv:1903.10520, arXiv:2101.08692) is a constant without training, and becomes the weight.

    Subclasses of these are not changed, because their computation is unknown.
    """
    pads: dict[str, bool] = {}
    for node in list(module.graph.nodes):
        layer = module_of(node)
        if type(layer) in (Conv2dSame, *_STANDARDISED):
            assert isinstance(layer, nn.Conv2d)
            pads[str(node.target)] = bool(getattr(layer, "same_pad", type(layer) is Conv2dSame))
            module.set_submodule(str(node.target), _plain(layer))
        if pads.get(str(node.target)) and node.op == "call_module":
            _pad_in_front(node)
    if pads:  # both take longer than the search for such layers
        module.graph.lint()
        module.recompile()


def _plain(layer: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=0 if type(layer) is Conv2dSame else layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(_standardised(layer)) if type(layer) in _STANDARDISED else layer.weight
    plain.bias = layer.bias
    return plain.train(layer.training)


@torch.no_grad()
def _standardised(layer: nn.Conv2d) -> torch.Tensor:
    gain = (layer.gain * layer.scale).view(-1) if type(layer) in _SCALED else None  # type: ignore[operator]
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    eps = float(layer.eps)  # type: ignore[arg-type]
    return F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=eps).reshape_as(layer.weight)


def _pad_in_front(node: fx.Node) -> None:
    layer = module_of(node)
    assert isinstance(layer, nn.Conv2d)
    with node.graph.inserting_before(node):
        arguments = (node.args[0], tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation))
        padded = node.graph.call_function(pad_same, arguments)
    node.args = (padded,)
    node.kwargs = {}

"""Adds a constant to the outputs of a layer, in its bias or in the norm behind it."""

from __future__ import annotations

import torch
from torch import nn


def add_to_outputs(model: nn.Module, layer: str, norm: str | None, shift: torch.Tensor) -> None:
    """Adds ``shift`` to the outputs of ``layer``, in place.

    It is added to the bias of the layer. If the layer has none, it is subtracted from the running
    mean of the batch normalisation behind it. If there is no such norm either, the layer gets a
    bias.

    Args:
        model: the network.
        layer: module path of a convolution or linear layer.
        norm: module path of the batch normalisation that is the only reader of the layer, or None.
        shift: ``[outputs]``.
    """
    bias = ensure_bias(model, layer, norm)
    with torch.no_grad():
        if bias is not None:
            bias.add_(shift.to(bias))
        else:
            assert norm is not None
            mean = model.get_submodule(norm).running_mean
            assert isinstance(mean, torch.Tensor)
            mean -= shift.to(mean)


def ensure_bias(model: nn.Module, layer: str, norm: str | None) -> nn.Parameter | None:
    """The bias of ``layer``, made from zeros if there is neither a bias nor a running mean.

    Returns:
        None if the running mean of ``norm`` is used for constants.
    """
    module = model.get_submodule(layer)
    if isinstance(module.bias, nn.Parameter):
        return module.bias
    if norm is not None and isinstance(model.get_submodule(norm).running_mean, torch.Tensor):
        return None
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=weight.requires_grad)
    module.bias = bias
    return bias


def norm_scale(model: nn.Module, norm: str | None, outputs: int) -> torch.Tensor:
    """gamma / sigma of the norm behind a layer, float64 ``[outputs]``; ones without a norm."""
    module = None if norm is None else model.get_submodule(norm)
    variance = getattr(module, "running_var", None)
    if not isinstance(variance, torch.Tensor) or len(variance) != outputs:
        return torch.ones(outputs, dtype=torch.float64)
    assert isinstance(module, nn.Module)
    scale = (variance.detach().double() + float(module.eps)).rsqrt()  # type: ignore[arg-type]
    return scale if module.weight is None else scale * module.weight.detach().double()  # type: ignore[operator]

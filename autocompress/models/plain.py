"""Gives a network plain tensors: dense, in float32, each a parameter or buffer of its own layer."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm

_WEIGHT_NORM, _SPECTRAL_NORM = ("_g", "_v"), ("_orig", "_u")
"""Ends of the names of the tensors that the older functions of torch put in place of a weight."""


def unusable_tensor(model: nn.Module) -> str:
    """What is wrong with the first tensor that cannot be compressed; empty if there is none."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            return f"'{name}' has no shape yet: its layer is lazy and has seen no image"
        if tensor.is_meta:
            return f"'{name}' is on the device 'meta' and holds no values"
        if tensor.layout != torch.strided:
            return f"'{name}' is sparse"
        if tensor.is_quantized:
            return f"'{name}' is quantized by torch"
    return ""


def made_plain(model: nn.Module) -> nn.Module:
    """Replaces computed weights by their values and converts tensors to float32, in place.

    Computed weights are those of ``parametrize`` (weight norm, spectral norm and others), of the
    older functions for both norms, and of ``torch.nn.utils.prune``. The network in eval mode
    computes the same.
    """
    training = model.training
    model.eval()  # in training mode, reading a weight with spectral norm changes it
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        _without_hooks(module)
    return model.float().train(training)


def _without_hooks(module: nn.Module) -> None:
    own = [name for name, _ in itertools.chain(module.named_parameters(recurse=False), module.named_buffers("", False))]
    for name in own:
        if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in own:
            prune.remove(module, name.removesuffix("_orig"))
    for (first, second), remove in ((_WEIGHT_NORM, remove_weight_norm), (_SPECTRAL_NORM, remove_spectral_norm)):
        for name in own:
            weight = name.removesuffix(first)
            if name.endswith(first) and f"{weight}{second}" in own and hasattr(module, weight):
                try:
                    remove(module, weight)
                except ValueError:  # the layer has tensors with such names of its own
                    continue

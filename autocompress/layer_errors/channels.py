"""Finds the channels of the baseline's layers that a compressed network still has.

A plan has the channels of couplings, and a coupling has channels of many layers. So weights are
filled with the numbers of their channels, the plan is applied, and the weights are read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from autocompress.compression.layertypes import layer_specs
from autocompress.compression.rebuilding import rebuild
from autocompress.contract import Method, Plan
from autocompress.quantization.folding import fold_batch_norm


@dataclass(frozen=True)
class Kept:
    """The remaining channels of a layer.

    Attributes:
        outputs, inputs: their numbers in the baseline's layer, int64; inputs of a grouped
            convolution are those of one group.
    """

    outputs: torch.Tensor
    inputs: torch.Tensor


def kept_channels(model: nn.Module, steps: Sequence[Plan], methods: Mapping[str, Method]) -> dict[str, Kept]:
    """The remaining channels of each convolution and linear layer, by name.

    Layers that a method replaced are left out.

    Args:
        model: the baseline.
        steps: steps of a plan, ``plan["transforms"]``.
        methods: the methods of the plan, by name.
    """
    outputs = _numbers(model, steps, methods, axis=0)
    inputs = _numbers(model, steps, methods, axis=1)
    return {name: Kept(outputs[name], inputs[name]) for name in outputs if name in inputs}


def folded(model: nn.Module, methods: Mapping[str, Method]) -> fx.GraphModule:
    """The graph with folded batch norms; a hardened network is returned unchanged."""
    return (
        model if isinstance(model, fx.GraphModule) else fold_batch_norm(model, specs=layer_specs([*methods.values()]))
    )


def is_layer(module: nn.Module) -> bool:
    """Whether it is a convolution or a linear layer of torch itself."""
    return isinstance(module, nn.Conv2d | nn.Linear)


def _numbers(
    model: nn.Module, steps: Sequence[Plan], methods: Mapping[str, Method], axis: int
) -> dict[str, torch.Tensor]:
    """The remaining numbers along one axis of each weight after the steps."""
    marked = copy.deepcopy(model)
    names = [name for name, module in marked.named_modules() if is_layer(module)]
    for name in names:
        weight = _weight(marked, name)
        shape = [-1 if position == axis else 1 for position in range(weight.ndim)]
        numbers = torch.arange(weight.shape[axis], dtype=weight.dtype).view(shape)
        weight.data = numbers.expand_as(weight).contiguous().clone()
    changed = rebuild(marked, steps, methods)
    there = {name for name, module in changed.named_modules() if is_layer(module)}
    read = {name: _read(_weight(changed, name), axis) for name in names if name in there}
    found = {name: numbers for name, numbers in read.items() if numbers is not None}
    return {name: numbers for name, numbers in found.items() if int(numbers.max()) < _weight(model, name).shape[axis]}


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _read(weight: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The numbers along ``axis``; None if the weight does not contain such numbers."""
    lines = weight.detach().transpose(0, axis).flatten(1)
    numbers = lines[:, 0].round().to(torch.int64)
    is_marked = bool((lines == numbers.to(lines.dtype)[:, None]).all()) and bool((numbers >= 0).all())
    rises = bool((numbers.diff() > 0).all())
    return numbers if is_marked and rises and len(numbers) else None

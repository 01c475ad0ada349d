"""Switches channels off without removing them, to check removals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autocompress.contract.coupling import Coupling, Index

Keep = Mapping[str, Sequence[int]]
"""Coupling name -> channels to keep, ascending. Couplings that are not named keep all."""


def mask_outputs(model: nn.Module, couplings: Iterable[Coupling], keep: Keep) -> list[Any]:
    """Sets removed channels to zero behind each norm (or writer without a norm), with hooks.

    Returns:
        The handles of the hooks; ``handle.remove()`` removes one.
    """
    handles = []
    for layer, dropped in _dropped(((c.name, c.masks) for c in couplings), keep, couplings).items():
        module = model.get_submodule(layer)
        handles.append(module.register_forward_hook(_output_hook(module, dropped)))
    return handles


def mask_inputs(model: nn.Module, couplings: Iterable[Coupling], keep: Keep) -> list[Any]:
    """Sets removed channels to zero in the inputs of their readers, with hooks.

    The values before the readers then do not matter. Couplings with ``scatter`` get their zeros
    behind the norm instead, because their readers keep the full width.
    """
    couplings = list(couplings)
    handles = mask_outputs(model, [c for c in couplings if c.scatter], keep)
    readers = [(c.name, tuple(c.consumers.items())) for c in couplings if not c.scatter]
    for layer, dropped in _dropped(readers, keep, couplings).items():
        module = model.get_submodule(layer)
        handles.append(module.register_forward_pre_hook(_input_hook(module, dropped)))
    return handles


def masked_copy(model: nn.Module, couplings: Iterable[Coupling], keep: Keep) -> nn.Module:
    """A copy of ``model`` with :func:`mask_outputs`, and equal weights, names and widths."""
    duplicate = copy.deepcopy(model)
    mask_outputs(duplicate, list(couplings), keep)
    return duplicate


def _dropped(
    places: Iterable[tuple[str, tuple[tuple[str, Index], ...]]], keep: Keep, couplings: Iterable[Coupling]
) -> dict[str, list[int]]:
    """Returns for each layer the indices to set to zero, over all its couplings."""
    channels = {coupling.name: coupling.channels for coupling in couplings}
    found: dict[str, set[int]] = {}
    for name, layers in places:
        if name not in keep:
            continue
        gone = set(range(channels[name])) - set(keep[name])
        for layer, index in layers:
            found.setdefault(layer, set()).update(position for channel in gone for position in index[channel])
    return {layer: sorted(indices) for layer, indices in found.items() if indices}


def _channel_dim(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear) else 1


def _zeroed(x: torch.Tensor, dropped: list[int], dim: int) -> torch.Tensor:
    index = torch.as_tensor(dropped, dtype=torch.int64, device=x.device)
    return x.index_fill(dim, index, 0.0)


def _output_hook(layer: nn.Module, dropped: list[int]) -> Callable[..., torch.Tensor]:
    dim = _channel_dim(layer)
    return lambda _module, _inputs, output: _zeroed(output, dropped, dim)


def _input_hook(layer: nn.Module, dropped: list[int]) -> Callable[..., tuple[Any, ...]]:
    dim = _channel_dim(layer)
    return lambda _module, inputs: (_zeroed(inputs[0], dropped, dim), *inputs[1:])

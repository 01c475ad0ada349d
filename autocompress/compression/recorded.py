"""Finds inputs of a baseline for which synthetic images differ from the recorded statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from autocompress.contract import Coupling
from autocompress.graph import NetworkFacts
from autocompress.graph.kinds import NORM_TYPES
from autocompress.repair.rescaling import correction, variance_ratios

Scales = dict[str, torch.Tensor]
"""The factor for each input channel of each layer, float64 ``[inputs]`` by layer."""


def unlike(
    model: nn.Module,
    network: NetworkFacts,
    every: Sequence[Coupling],
    batches: Callable[[], Iterable[torch.Tensor]],
    pause: Callable[[], None] | None = None,
) -> Scales:
    """The layers whose inputs have another variance on ``batches`` than on the data.

    Args:
        model: a baseline, in eval mode.
        network: facts about it.
        every: its couplings, which give the norms before each layer.
        batches: gives images, on the model's device.
        pause: called between batches.

    Returns:
        The factors by layer. A layer is left out if the variances of all its inputs are as
        recorded, or if no norm recorded them.
    """
    norms = {name for coupling in every for name in coupling.norms if _records(model.get_submodule(name))}
    norms |= {
        layer.norm for layer in network.layers.values() if layer.norm and _records(model.get_submodule(layer.norm))
    }
    if not norms:
        return {}
    ratios = variance_ratios(model, sorted(norms), batches(), pause)
    before: dict[str, list[str]] = {}
    for layer in network.layers.values():
        for reader in layer.consumers if layer.norm in ratios else ():
            before.setdefault(reader, []).append(str(layer.norm))
    found: Scales = {}
    for coupling in every:
        stream = _of_stream(model, coupling, ratios)
        for reader, index in coupling.consumers.items():
            if reader not in network.layers:
                continue
            scale = found.setdefault(reader, torch.ones(network.layers[reader].in_channels, dtype=torch.float64))
            directly = [ratios[name] for name in before.get(reader, ()) if len(ratios[name]) == len(scale)]
            for channel, inputs in enumerate(index):
                place = list(inputs)
                scale[place] = correction(directly[0][place] if directly else stream[channel].expand(len(place)))
    return {name: scale for name, scale in found.items() if not bool((scale == 1).all())}


def _records(norm: nn.Module) -> bool:
    return isinstance(norm, NORM_TYPES) and isinstance(norm.running_var, torch.Tensor)


def _of_stream(model: nn.Module, coupling: Coupling, ratios: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The ratio of each channel: mean over its norms, weighted by the squares of their gammas."""
    total = torch.zeros(coupling.channels, dtype=torch.float64)
    weights = torch.zeros(coupling.channels, dtype=torch.float64)
    for name, index in coupling.norms.items():
        if name not in ratios:
            continue
        gamma = model.get_submodule(name).weight
        square = torch.ones_like(ratios[name]) if gamma is None else gamma.detach().double().cpu().square()  # type: ignore[operator]
        for channel, own in enumerate(index):
            place = list(own)
            total[channel] += (square[place] * ratios[name][place]).sum()
            weights[channel] += square[place].sum()
    return torch.where(weights > 0, total / weights.clamp(min=1e-30), 1.0)

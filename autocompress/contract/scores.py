"""Scores of the channels of a coupling, from scores of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from autocompress.contract.coupling import Coupling
from autocompress.contract.layers import LayerSpec


def coupling_scores(
    coupling: Coupling, layers: Mapping[str, torch.Tensor], model: nn.Module, specs: Sequence[LayerSpec] = ()
) -> torch.Tensor | None:
    """Scores of the channels of a coupling, float32 ``(channels,)``.

    The score of a channel is the mean over the layers that write it.

    Args:
        coupling: coupling of ``model``.
        layers: scores of the output channels of each layer of ``model`` or of the baseline. Where a
            writer replaces a layer of the baseline (a ghost module), ``LayerSpec.channel_map`` maps
            the scores. A channel of the coupling that is several outputs of a writer (a head, an
            intrinsic map with its ghosts) has their mean.
        model: the network.
        specs: descriptions of the layer types of plugins in it.

    Returns:
        None where no writer has scores.
    """
    found = []
    for writer, index in coupling.producers.items():
        own = _of_layer(writer, layers, model, specs)
        if own is None or not all(len(indices) for indices in index):
            continue
        found.append(torch.stack([own[list(indices)].mean() for indices in index]))
    return torch.stack(found).mean(0) if found else None


def origin_of(name: str, layers: Iterable[str]) -> str | None:
    """The layer of the baseline that is ``name`` or contains it; None if there is no such layer."""
    known = set(layers)
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def _of_layer(
    writer: str, layers: Mapping[str, torch.Tensor], model: nn.Module, specs: Sequence[LayerSpec]
) -> torch.Tensor | None:
    origin = origin_of(writer, layers)
    if origin is None:
        return None
    own = layers[origin].float()
    module = model.get_submodule(origin)
    spec = next((spec for spec in specs if type(module) is spec.layer_type), None)
    # The name is part of a substituted layer (a primary convolution), with the first channels of
    # that layer.
    return own if spec is None else own[spec.channel_map(module).cpu()]

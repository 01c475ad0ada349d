"""From the scores of layers to those of a coupling's channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from autocompress.contract.coupling import Coupling
from autocompress.contract.layers import LayerSpec


def coupling_scores(
    coupling: Coupling, layers: Mapping[str, torch.Tensor], model: nn.Module, specs: Sequence[LayerSpec] = ()
) -> torch.Tensor | None:
    """Scores of a coupling's channels, float32 ``(channels,)``.

    The score of a channel is the mean over the layers that write it.

    What several layers write is added up, so a writer with small weights says little about a
    channel.

    Args:
        coupling: of ``model``.
        layers: layer of ``model``, or of the baseline that it was made from -> a score for each
            output channel. Where a writer stands in for a layer of the baseline (a ghost module),
            its channels take the scores of the channels that they stand for
            (``LayerSpec.channel_map``). A channel of the coupling that is several of a writer's (a
            head, an intrinsic map with its ghosts) takes their mean.
        model: the network.
        specs: of the layer types that plugins brought into it.

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
    """The layer of the baseline that ``name`` is, or that it is a part of now; None for neither."""
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
    # Part of a substituted layer (a primary convolution): its channels come first among the layer's
    # own.
    return own if spec is None else own[spec.channel_map(module).cpu()]

"""One-shot repair of a network that is about to lose channels: each consumer refitted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autocompress.repair.moments import Moments
from autocompress.repair.refit import refit
from autocompress.repair.shifts import add_to_outputs


def repair(
    model: nn.Module,
    lost: Mapping[str, Sequence[int]],
    moments: Mapping[str, Moments],
    norms: Mapping[str, str | None],
) -> list[str]:
    """Refits every layer that is about to lose inputs, from moments of the network as it is.

    The weights of lost inputs become zero; slicing them off changes nothing then. All layers are
    refitted towards their old outputs at once, so this is right where everything between a lost
    channel's writer and its reader acts channel by channel.

    Args:
        model: the network before its channels are sliced off; changed in place.
        lost: by layer, the input channels that go: the union over all couplings that it reads.
        moments: by layer; a layer without moments keeps its weights.
        norms: by layer, the batch normalisation directly behind it.

    Returns:
        The refitted layers.
    """
    done = []
    for name, inputs in lost.items():
        own = moments.get(name)
        if own is None or not inputs:
            continue
        layer, columns = model.get_submodule(name), own.columns
        kept = torch.ones(columns.groups, columns.width, dtype=torch.bool)
        gone = columns.of_inputs(inputs)
        kept[gone[:, 0], gone[:, 1]] = False
        matrix = columns.weight(layer)
        new, shift = refit(matrix.cpu(), own, kept)
        columns.write(layer, new)
        add_to_outputs(model, name, norms.get(name), shift.flatten())
        done.append(name)
    return done

"""One-shot repair of a network before channels are removed: each consumer is refitted once."""

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
    """Refits every layer that will lose inputs, with moments of the present network.

    The weights of lost inputs become zero, so that removing them changes nothing. All layers are
    refitted to their old outputs independently. This is correct if all operators between the writer
    and the reader of a lost channel act on each channel separately.

    Args:
        model: the network before channels are removed; changed in place.
        lost: for each layer, the input channels to remove, from all couplings that it reads.
        moments: moments of the inputs of each layer; a layer without moments keeps its weights.
        norms: the batch normalisation directly behind each layer, by layer.

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

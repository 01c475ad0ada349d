"""The pruner ``obs``: backward elimination by the error after a refit of the readers.

With ``H = (G + lambda s I)^-1`` over the columns of a layer that reads the channels, and ``W`` its
weights, removing the columns ``c`` of a channel and refitting the rest costs (Hassibi and Stork,
NIPS 1992, for single weights; Frantar and Alistarh, NeurIPS 2022, arXiv 2208.11580, for a layer)

    err(c) = tr(D W_c H_cc^-1 W_c^T)

summed over all layers that read the channel. ``D`` is the importance of each output of a reader.
With ``weighting: gradient`` it is E[(d log p / d output)^2], the Fisher information, so that the
sum is in units of the loss. With ``equal`` it is (gamma / sigma)^2 of the norm behind, and each
reader's error is divided by the variance of its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autocompress.contract import Context, Coupling, Params, Pruner, Space
from autocompress.graph import facts
from autocompress.repair import Moments, Reader, eliminate, gradient_energy, has_columns, inverses, readers
from autocompress.repair.shifts import norm_scale

IMAGES = 256
"""Number of images for gradients; more images hardly change an order."""
BATCH = 64
LARGE = 64**2
"""Above this number of pixels, fewer images are used (at least 64), in smaller batches.

A backward pass keeps all activations: 130 MB per image for a ResNet-50 at 224 pixels.
"""
LEAST_IMAGES, LEAST_BATCH = 64, 4
WEIGHTINGS = ("gradient", "equal")


class Obs(Pruner):
    """Removes first the channels for which the remaining inputs of the readers compensate best.

    Parameter (``obs.`` before it), not searched unless the job says so:
        weighting: "gradient" or "equal": the importance of errors in the outputs of readers.
    """

    name = "obs"
    version = "2"
    reference = "Hassibi and Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NIPS 1992"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        del model
        weighting = space.categorical("weighting", WEIGHTINGS, default="gradient", structural=False, searched=False)
        return {"weighting": weighting}

    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        return self.orders([coupling], params, context)[coupling.name]

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        """The order of each coupling, while all others keep their channels.

        Matrices of layers that several couplings share are inverted once.
        """
        model = context.model
        assert model is not None
        network = facts(model, context.input_size, _leaves(model, couplings))
        counted = {
            coupling.name: [
                name
                for name in coupling.consumers
                if has_columns(model.get_submodule(name))
                and not (name in network.layers and network.layers[name].in_gate)
            ]
            for coupling in couplings
        }
        names = list(dict.fromkeys(name for own in counted.values() for name in own))
        norms = {name: network.layers[name].norm if name in network.layers else None for name in names}
        moments = context.moments(names)
        weights, scales = _weights(params["weighting"], names, norms, moments, context)
        left = {name: sum(name in own for own in counted.values()) for name in names}
        inverted: dict[str, list[torch.Tensor]] = {}
        found: dict[str, Sequence[int]] = {}
        for coupling in couplings:
            context.pause()
            consumers: dict[str, list[Reader]] = {}
            for name in counted[coupling.name]:
                left[name] -= 1
                if name not in moments:
                    continue
                known = inverted.pop(name, None) or inverses(moments[name])
                matrix = moments[name].columns.weight(model.get_submodule(name)).cpu()
                consumers[name] = readers(
                    matrix, moments[name], coupling.consumers[name], weights[name], inverted=known
                )
                if left[name]:
                    inverted[name] = known
            found[coupling.name] = coupling.interleaved(
                _by_block(coupling, eliminate(coupling.channels, consumers, scales, coupling.blocks))
            )
        return found


def _weights(
    weighting: str,
    names: Sequence[str],
    norms: Mapping[str, str | None],
    moments: Mapping[str, Moments],
    context: Context,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Importance of the outputs of each reader, ``[groups, outputs]``, and divisor of its error."""
    model = context.model
    assert model is not None
    if weighting == "gradient":
        assert context.transfer is not None
        images = context.transfer.calibration
        _, height, width = context.input_size
        share = min(1.0, LARGE / (height * width))
        some = images.subset(max(LEAST_IMAGES, int(share * IMAGES)), context.seed)
        size = max(LEAST_BATCH, int(share * BATCH))

        def batches() -> list[torch.Tensor]:
            return [batch.to(context.device) for batch, _ in some.loader(size)]

        energies = gradient_energy(model, names, batches, seed=context.seed, pause=context.pause, task=images.task)
        grouped = {name: energies[name].unflatten(0, (moments[name].columns.groups, -1)) for name in moments}
        return grouped, dict.fromkeys(names, 1.0)
    weights, scales = {}, {}
    for name, own in moments.items():
        matrix = own.columns.weight(model.get_submodule(name)).cpu()
        scale = norm_scale(model, norms[name], matrix.shape[0] * matrix.shape[1]).square().cpu()
        weights[name] = scale.unflatten(0, (own.columns.groups, -1))
        scales[name] = max(float((own.energy(matrix) * weights[name]).sum()), 1e-30)
    return weights, scales


def _by_block(coupling: Coupling, order: Sequence[int]) -> list[list[int]]:
    block_of = {channel: number for number, block in enumerate(coupling.blocks) for channel in block}
    blocks: list[list[int]] = [[] for _ in coupling.blocks]
    for channel in order:
        blocks[block_of[channel]].append(channel)
    return blocks


def _leaves(model: nn.Module, couplings: Sequence[Coupling]) -> tuple[type[nn.Module], ...]:
    """Types of the layers of couplings, which a trace must keep whole to find them by name."""
    own = (model.get_submodule(name) for coupling in couplings for name in (*coupling.producers, *coupling.consumers))
    return tuple({type(layer) for layer in own} - {nn.Conv2d, nn.Linear})

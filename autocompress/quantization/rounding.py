"""Rounds the weights of a network of fake-quantizers so that its outputs change least.

:mod:`autocompress.repair.rounding` has the algebra. :func:`round_layers` rounds all layers at once,
by their inputs in the float network. :func:`round_in_order` rounds one layer after the other, by
its inputs behind rounded layers, towards the outputs of the float network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import fx, nn

from autocompress.contract import FakeQuantizer
from autocompress.graph.kinds import shape_of
from autocompress.graph.trace import evaluating
from autocompress.quantization.bias_correction import LIVE, MEMORY, add_to_bias
from autocompress.quantization.fakelayers import FakeLayer
from autocompress.quantization.folding import affine
from autocompress.quantization.network import FAKES, QuantizedNetwork
from autocompress.quantization.scales import SMALLEST_SCALE
from autocompress.repair import Levels, Lockstep, Moments, Rounding, gather, has_columns, rounded
from autocompress.repair.moments import MOST_COLUMNS


def offered(network: QuantizedNetwork, how: Mapping[str, Rounding]) -> dict[str, Rounding]:
    """The layers of ``how`` that can be rounded by moments, without those that round to nearest."""
    return {
        name: how[name]
        for name, layer in network.fake_layers().items()
        if how.get(name, "nearest") != "nearest" and layer.weight_quantizer.levels() is not None and has_columns(layer)
    }


@torch.no_grad()
def round_layers(
    network: QuantizedNetwork,
    how: Mapping[str, Rounding],
    batches: Sequence[torch.Tensor],
    *,
    seed: int = 0,
) -> None:
    """Rounds layers from moments of the network with all quantizers off.

    Args:
        network: not calibrated; changed in place.
        how: the rounding of each layer, from :func:`offered`.
        batches: images ``(N, C, H, W)``.
        seed: random seed of drawn positions.
    """
    with _plain(network):
        moments = gather(network, list(how), lambda: batches, seed=seed)
    for name, own in moments.items():
        layer = network.fake_layers()[name]
        if own.columns.width > MOST_COLUMNS:
            continue
        factor = _factor(layer, own)
        matrix = own.columns.weight(layer).cpu() * factor
        new = _settled(layer.weight_quantizer, matrix, own, how[name])
        _write(layer, own, new / torch.where(factor == 0, 1.0, factor))
        shift = ((matrix - new.double()) @ own.mean[:, :, None])[:, :, 0].flatten()
        add_to_bias(layer, _deployed(layer, shift).to(layer.weight))


@torch.no_grad()
def round_in_order(
    network: QuantizedNetwork,
    how: Mapping[str, Rounding],
    batches: Sequence[torch.Tensor],
    *,
    seed: int = 0,
) -> None:
    """Rounds layers front to back; each is refitted first (``repair.Lockstep``).

    Args:
        network: not calibrated, with folded norms; changed in place.
        how: the rounding of each layer, from :func:`offered`.
        batches: images ``(N, C, H, W)``; all stay in memory, with the activations that will be
            read.
        seed: random seed of drawn positions.
    """
    layers = network.fake_layers()
    own = {name: layer for name, layer in layers.items() if has_columns(layer)}
    original = copy.deepcopy(network)
    for layer in own.values():
        layer.weight = nn.Parameter(layer.weight.detach().clone())  # another layer may hold the same

    def settle(name: str, matrix: torch.Tensor, moments: Moments) -> torch.Tensor:
        if name not in how or moments.columns.width > MOST_COLUMNS:
            return matrix
        return _settled(layers[name].weight_quantizer, matrix, moments, how[name]).double()

    with _plain(original), _without(network.activation_fakes().values()), evaluating(network):
        lockstep = Lockstep(_bare(original), _bare(network), {}, {}, seed=seed, settle=settle)
        lockstep.repair(list(batches), list(own))


def most_images(network: QuantizedNetwork, wanted: int) -> int:
    """The number of images, at most ``wanted``, that fit into memory for :func:`round_in_order`."""
    shapes = [shape_of(node) for node in network.graph.nodes]
    largest = max(math.prod(shape) for shape in shapes if shape)
    return min(wanted, max(MEMORY // (4 * 2 * LIVE * largest), 1))


def _settled(fake: FakeQuantizer, matrix: torch.Tensor, moments: Moments, how: Rounding) -> torch.Tensor:
    """Rounds weights to the levels of ``fake``, and sets its scale."""
    values = fake.levels()
    assert values is not None
    new, scale = rounded(matrix, moments, Levels.of(values.cpu()), how, shared=fake.shares_scale)
    scale = scale.clamp(min=SMALLEST_SCALE)  # below it, the channel is dead
    fake.settle(scale.flatten().to(next(fake.buffers()).device))
    return fake.round_to(new, scale[..., None])


def _factor(layer: FakeLayer, moments: Moments) -> torch.Tensor:
    """The factor from the layer's weight to the input of its quantizer, ``[groups, rows, 1]``."""
    if layer.norm is None or not layer.weight_quantizer.folds_norm:
        return torch.ones((moments.columns.groups, len(layer.weight) // moments.columns.groups, 1), dtype=torch.float64)
    return affine(layer.norm)[0].detach().double().cpu().reshape(moments.columns.groups, -1, 1)


def _deployed(layer: FakeLayer, shift: torch.Tensor) -> torch.Tensor:
    """Converts a shift of outputs, made with the quantizer's weight, to one behind the norm."""
    if layer.norm is None or layer.weight_quantizer.folds_norm:
        return shift
    return shift * affine(layer.norm)[0].detach().double().cpu()


def _write(layer: FakeLayer, moments: Moments, matrix: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().clone())  # another layer may hold the same
    moments.columns.write(layer, matrix.to(layer.weight.device))


def _bare(network: QuantizedNetwork) -> fx.GraphModule:
    """The graph of the network without the quantizers of activations."""
    graph = copy.deepcopy(network.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and str(node.target).startswith(f"{FAKES}."):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return fx.GraphModule(network, graph)


@contextmanager
def _plain(network: QuantizedNetwork) -> Iterator[None]:
    """Within the block, all quantizers are off."""
    with _without([*network.weight_fakes().values(), *network.activation_fakes().values()]), evaluating(network):
        yield


@contextmanager
def _without(fakes: Iterable[FakeQuantizer]) -> Iterator[None]:
    switched = list(fakes)
    before = [fake.enabled for fake in switched]
    for fake in switched:
        fake.enabled = False
    try:
        yield
    finally:
        for fake, enabled in zip(switched, before, strict=True):
            fake.enabled = enabled

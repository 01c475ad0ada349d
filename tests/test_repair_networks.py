"""Repair of whole networks.

Duplicated channels are removed without an error, and others with less error than without repair.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.contract.coupling import Coupling
from autocompress.graph import NetworkFacts, evaluating, facts, trace
from autocompress.repair import RIDGES, Lockstep, Moments, choose_ridge, gather, has_columns, repair

SIZE = (3, 32, 32)
NETWORKS = (
    "resnet18",
    "densenet121",
    "regnety_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_050",
)


SMALLER: dict[str, dict[str, Any]] = {
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 3},
}
"""Every kind of coupling, with fewer layers."""


def _network(name: str) -> nn.Module:
    """A network with random norms and layer scales, as after a training."""
    model = timm.create_model(name, num_classes=10, **SMALLER.get(name, {})).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(scale := getattr(module, "gamma", None), nn.Parameter):
            nn.init.uniform_(scale, 0.5, 1.5)
    return model


def _images(count: int) -> torch.Tensor:
    """Smooth images: neighbouring pixels are similar, so channels are correlated."""
    coarse = nn.functional.interpolate(torch.randn(count, 3, 4, 4), SIZE[1:], mode="bilinear")
    return coarse + 0.2 * torch.randn(count, *SIZE)


def _duplicate(model: nn.Module, coupling: Coupling, original: int, copied: int) -> None:
    """Makes two channels of a coupling equal in all layers that write or pass them."""
    for part in coupling.parts:
        source, target = list(part.index[original]), list(part.index[copied])
        if part.side == "in":
            continue
        if part.side == "parameter":
            owner, _, name = part.layer.rpartition(".")
            tensors, dim = [getattr(model.get_submodule(owner), name)], part.dim
        else:
            layer, dim = model.get_submodule(part.layer), 0
            names = ("weight", "bias", "running_mean", "running_var")
            tensors = [t for name in names if isinstance(t := getattr(layer, name, None), torch.Tensor)]
        for tensor in tensors:
            index = torch.tensor(target)
            with torch.no_grad():
                tensor.index_copy_(dim, index, tensor.index_select(dim, torch.tensor(source)))


def _lost(every: Sequence[Coupling], keep: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The inputs that each layer loses."""
    lost: dict[str, set[int]] = {}
    for coupling in every:
        gone = set(range(coupling.channels)) - set(keep[coupling.name])
        for layer, index in coupling.consumers.items():
            lost.setdefault(layer, set()).update(place for channel in gone for place in index[channel])
    return {layer: sorted(inputs) for layer, inputs in lost.items()}


def _moments(model: nn.Module, lost: Mapping[str, Sequence[int]], images: torch.Tensor) -> dict[str, Moments]:
    readers = [name for name in lost if has_columns(model.get_submodule(name))]
    return gather(model, readers, lambda: images.split(128), choose_ridge=choose_ridge)


def _norms(network: NetworkFacts) -> dict[str, str | None]:
    return {name: layer.norm for name, layer in network.layers.items()}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_duplicated_channels_of_every_coupling_are_removed_without_an_error(name: str) -> None:
    model = _network(name)
    every = [coupling for coupling in couplings(model, SIZE, "group") if coupling.prunable]
    keep: dict[str, list[int]] = {}
    for coupling in every:
        largest = max(len(block) for block in coupling.blocks)
        pairs = [(block[0], block[1]) for block in coupling.blocks if len(block) == largest]
        for original, copied in pairs:
            _duplicate(model, coupling, original, copied)
        copies = {copied for _, copied in pairs}
        keep[coupling.name] = [channel for channel in range(coupling.channels) if channel not in copies]
    images, lost = _images(192), _lost(every, keep)
    weakest = {name: replace(own, ridge=min(RIDGES)) for name, own in _moments(model, lost, images).items()}
    repaired = copy.deepcopy(model)
    assert set(repair(repaired, lost, weakest, _norms(facts(model, SIZE)))) == set(lost)
    repaired = remove(repaired, keep, SIZE, "group", couplings=every)
    plain = remove(copy.deepcopy(model), keep, SIZE, "group", couplings=every)
    expected, scale = model(images[:32]), model(images[:32]).var()
    assert float((repaired(images[:32]) - expected).square().mean() / scale) < 1e-6
    assert float((plain(images[:32]) - expected).square().mean() / scale) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
@torch.no_grad()
def test_repair_reduces_the_error_and_sequential_repair_reduces_it_further(name: str) -> None:
    torch.manual_seed(0)
    model = _network(name)
    network = facts(model, SIZE)
    every = [coupling for coupling in couplings(model, SIZE, "inner") if coupling.prunable]
    keep = {
        coupling.name: sorted(
            block[place]
            for block in coupling.blocks
            for place in torch.randperm(len(block))[: max(1, len(block) // 2)].tolist()
        )
        for coupling in every
    }
    images, lost = _images(512), _lost(every, keep)
    one_shot = copy.deepcopy(model)
    repair(one_shot, lost, _moments(model, lost, images), _norms(network))
    one_shot = remove(one_shot, keep, SIZE, couplings=every)
    plain = remove(copy.deepcopy(model), keep, SIZE, couplings=every)
    sequential = copy.deepcopy(plain)
    kept = {
        part.layer: part.indices(keep[coupling.name])
        for coupling in every
        for part in coupling.parts
        if part.side in ("out", "both")
    }
    with evaluating(model), evaluating(sequential):
        lockstep = Lockstep(trace(model), trace(sequential), kept, _norms(network))
        report = lockstep.repair(images.split(128), list(network.layers))
    assert report.refitted
    others = _images(128)
    expected = model(others)
    errors = [float((other(others) - expected).square().mean()) for other in (plain, one_shot, sequential)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]


@torch.no_grad()
def test_sequential_repair_does_not_change_an_unpruned_network() -> None:
    model = _network("resnet10t")
    same, network = copy.deepcopy(model), facts(model, SIZE)
    with evaluating(model), evaluating(same):
        report = Lockstep(trace(model), trace(same), {}, _norms(network)).repair([_images(32)], list(network.layers))
    assert not report.refitted
    assert not report.undone
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor, rtol=0, atol=0)


@torch.no_grad()
def test_sequential_repair_refits_linear_layers_of_maps_with_channels_last() -> None:
    """The MLPs of ConvNeXt read maps ``(N, H, W, C)``. The last layer makes up for the first."""
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=10).eval()
    damaged, network = copy.deepcopy(model), facts(model, SIZE)
    first, last = (next(name for name in network.layers if name.endswith(f"mlp.{layer}")) for layer in ("fc1", "fc2"))
    damaged.get_submodule(first).weight.mul_(0.8)
    with evaluating(model), evaluating(damaged):
        lockstep = Lockstep(trace(model), trace(damaged), {}, _norms(network))
        assert last in lockstep.repair(_images(64).split(32), [last]).refitted


@pytest.mark.slow
@torch.no_grad()
def test_the_last_layer_of_a_block_compensates_for_its_shortcut() -> None:
    """The shortcut is damaged. The convolution beside it is refitted and halves the error."""
    torch.manual_seed(0)
    model = _network("resnet10t")
    damaged, network = copy.deepcopy(model), facts(model, SIZE)
    shortcut = next(name for name in network.layers if "layer2.0.downsample" in name)
    damaged.get_submodule(shortcut).weight.mul_(0.5)
    images = _images(256)
    broken = float((damaged(images) - model(images)).square().mean())
    others = [name for name in network.layers if name != shortcut]
    with evaluating(model), evaluating(damaged):
        report = Lockstep(trace(model), trace(damaged), {}, _norms(network)).repair(images.split(64), others)
    assert report.refitted[0].startswith("layer2.0.conv")
    assert float((damaged(images) - model(images)).square().mean()) < 0.5 * broken


@torch.no_grad()
def test_a_gate_is_refitted_after_its_inputs_and_before_readers_of_the_product() -> None:
    torch.manual_seed(0)
    model = _network("mobilenetv3_small_050")
    network = facts(model, SIZE)
    every = couplings(model, SIZE, "inner")
    (cut,) = [coupling for coupling in every if coupling.name == "blocks.2.0.conv_pw"]
    keep = {cut.name: list(range(0, cut.channels, 2))}
    plain = remove(copy.deepcopy(model), keep, SIZE, couplings=every)
    kept = {part.layer: part.indices(keep[cut.name]) for part in cut.parts if part.side in ("out", "both")}
    with evaluating(model), evaluating(plain):
        done = Lockstep(trace(model), trace(plain), kept, _norms(network)).repair([_images(64)], list(network.layers))
    visited = [name for name in (*done.refitted, *done.undone) if name.startswith("blocks.2.0.")]
    order = [name for name in network.layers if name in visited]
    gates = [name for name in order if network.layers[name].in_gate]
    assert gates
    assert order.index("blocks.2.0.conv_dw") < order.index(gates[0])
    assert order.index(gates[-1]) < order.index("blocks.2.0.conv_pwl")
    assert [name for name in done.refitted if name in order] == [name for name in order if name in done.refitted]

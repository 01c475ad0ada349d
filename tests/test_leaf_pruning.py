"""Networks with leaf layers of plugins.

The pruner of the plugin removes channels. A network with removed channels has the outputs of the
full network in which these channels are set to zero.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pruning_stage import WITHOUT, asked
from torch import nn
from toy_leaf import Distance, DistancePruner, DistanceSpec, Substitute, WholeSpec, block

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import masked, remove
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.contract import Coupling, LayerSpec, coupling_scores
from autocompress.graph import facts
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store
from autocompress.testing import example_context, example_model
from autocompress_adder.layer import AdderConv2d
from autocompress_adder.spec import AdderSpec
from autocompress_simple_pruners import Magnitude

SIZE = (3, 8, 8)


def with_adders() -> tuple[nn.Module, LayerSpec]:
    net = block()
    for name in ("first", "second"):
        old = net.get_submodule(name)
        kernel, padding = old.kernel_size[0], old.padding
        adder = AdderConv2d(old.in_channels, old.out_channels, kernel, (1, 1), padding)
        net.set_submodule(name, adder)
    return settled(net), AdderSpec()


def settled(net: nn.Module) -> nn.Module:
    """``net`` with statistics of its batch norms."""
    net.train()
    with torch.no_grad():
        net(torch.randn(64, *SIZE))
    return net.eval()


def with_distances() -> tuple[nn.Module, LayerSpec]:
    return block(), DistanceSpec()


def prunable(every: list[Coupling]) -> dict[str, Coupling]:
    return {coupling.name: coupling for coupling in every if coupling.prunable}


@pytest.mark.parametrize("made", [with_distances, with_adders])
@pytest.mark.parametrize("mode", ["inner", "group"])
def test_masked_equals_sliced(made: object, mode: str) -> None:
    net, spec = made()  # type: ignore[operator]
    every = couplings(net, SIZE, mode, [spec])
    offered = prunable(every)
    # Only a leaf layer reads "first", whose channels no shortcut adds to others. "second" and the
    # stem are added, and leaf layers and convolutions read the sum.
    assert "first" in offered
    assert ("stem" in offered) == (mode == "group")
    if mode == "group":
        assert set(offered["stem"].producers) == {"stem", "second"}
        assert set(offered["stem"].consumers) == {"first", "third"}
    assert set(offered["first"].consumers) == {"second"}
    assert offered["first"].safe, "a zero channel adds a constant in a leaf, and the pruner keeps this constant"
    generator = torch.Generator().manual_seed(0)
    orders = {name: c.ranked(torch.rand(c.channels, generator=generator).tolist()) for name, c in offered.items()}
    keep = {name: c.left_by(orders[name], c.kept(0.5)) for name, c in offered.items()}
    images = torch.randn(16, *SIZE)
    expected = masked(net, keep, SIZE, mode, [spec])
    sliced = remove(copy.deepcopy(net), keep, SIZE, mode, [spec])
    with torch.no_grad():
        torch.testing.assert_close(sliced(images), expected(images), rtol=1e-4, atol=1e-4)
    assert sliced.get_submodule("first").out_channels == len(keep["first"])
    assert sliced.get_submodule("second").in_channels == len(keep["first"])


def test_a_pruner_that_forgets_the_constant_is_found() -> None:
    class Forgetful(DistancePruner):
        def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
            bias = layer.bias
            layer = super().prune_in_channels(layer, idxs)
            layer.bias = bias
            return layer

    class ForgetfulSpec(DistanceSpec):
        def pruner(self) -> object:
            return Forgetful()

    every = {coupling.name: coupling for coupling in couplings(block(), SIZE, "group", [ForgetfulSpec()])}
    assert "changes the output of the network" in every["first"].reasons[-1]


def test_a_leaf_that_cannot_lose_channels_gives_a_reason() -> None:
    every = {coupling.name: coupling for coupling in couplings(block(), SIZE, "group", [WholeSpec()])}
    for name in ("stem", "first"):
        assert any("Distance can lose no channels" in reason for reason in every[name].reasons)
    assert every["third"].prunable


def test_scores_of_the_baseline_apply_to_the_leaf() -> None:
    net, spec = with_adders()
    offered = prunable(couplings(net, SIZE, "inner", [spec]))
    scores = {"first": torch.arange(12.0)}
    own = coupling_scores(offered["first"], scores, net, [spec])
    assert own is not None
    assert offered["first"].ranked(own.tolist()) == list(range(12))


def test_the_stage_prunes_substituted_layers(tmp_path: Path) -> None:
    baseline = example_model()
    context = example_context(baseline, teacher=baseline)
    methods = [Substitute(), Magnitude()]
    pipeline = Pipeline(baseline, "leaf pruning", methods, context.transfer, "stage", 0, Compute(), Store(tmp_path))
    names = Substitute().search_space(_Defaults(), baseline)["layers"]
    recipe = Recipe(
        values={},
        transforms=[("distance", {"layers": names})],
        prune=asked(baseline, Magnitude(), 0.5),
        repair=WITHOUT,
    )
    whole = pipeline.run(Recipe(values={}, transforms=[("distance", {"layers": names})]))
    candidate = pipeline.run(recipe)
    dry = pipeline.run(recipe, dry_run=True)
    assert (dry.params, dry.macs) == (candidate.params, candidate.macs)
    assert candidate.params < whole.params
    adds = {c.layer: c.operations for c in whole.operators if c.kind == "add"}
    fewer = {c.layer: c.operations for c in candidate.operators if c.kind == "add"}
    assert fewer.keys() == adds.keys()
    inner = [name for name in adds if name.endswith("conv1")]
    assert inner
    assert all(fewer[name] <= adds[name] / 2 for name in inner)
    assert candidate.macs == facts(candidate.model, (3, 32, 32), (Distance,)).macs


class _Defaults:
    def categorical(self, name: str, choices: list[str], **_: object) -> str:
        return "all"

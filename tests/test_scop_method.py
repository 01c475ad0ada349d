"""The pruner ``scop``: its space, its scores, and the orders that follow from them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_stage import kept, pruned, specs
from torch import nn

from autocompress.contract import Context, Coupling, Space, TransferSet
from autocompress.recipes.choosers import Policy, Replay
from autocompress.recipes.pruning import prunable
from autocompress.store import pack, unpack
from autocompress.testing import example_context, example_model
from autocompress.testing.rules import shapes
from autocompress_ghost import Ghost
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scoring import ScoreSettings


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    model = example_model()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():  # timm starts the last norm of a block at 0
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def scop() -> Scop:
    return Scop()


@pytest.fixture(scope="module")
def state(resnet: nn.Module, scop: Scop) -> Any:
    """Its prepared state, stored as by the pipeline."""
    made = scop.prepare(copy.deepcopy(resnet), example_context(resnet, teacher=resnet))
    return unpack(*pack(made))


def context_of(model: nn.Module, *, dry_run: bool = False, state: Any = None) -> Context:
    return replace(example_context(model, dry_run=dry_run, teacher=None if dry_run else model), state=state)


def couplings_of(model: nn.Module, mode: str) -> dict[str, Coupling]:
    return {coupling.name: coupling for coupling in prunable(model, mode)}


# --- the space ------------------------------------------------------------------------------------


def test_no_parameter_is_searched_or_structural(resnet: nn.Module, scop: Scop) -> None:
    space = Space(Policy({}), "stage")
    scop.search_space(space.scope("scop"), resnet)
    assert set(space.asked) == {
        f"scop.{name}" for name in ("knockoffs", "score_epochs", "score_images", "score_lr", "mixing", "rescore_epochs")
    }
    assert all(len(parameter.choices) == 1 and not parameter.structural for parameter in space.asked.values())


def test_score_settings_are_part_of_the_version() -> None:
    longer = Scop(ScoreSettings(scales=ScaleSettings(epochs=8)))
    assert len({Scop().version, longer.version, Scop(ScoreSettings(knockoffs="permute")).version}) == 3
    assert Scop().version == Scop.version


# --- scores ---------------------------------------------------------------------------------------


def test_scores_need_images(resnet: nn.Module) -> None:
    context = example_context(resnet, teacher=resnet)
    assert context.transfer is not None
    empty = context.transfer.train.take(torch.arange(0))
    without = replace(context, transfer=TransferSet(empty, empty, "none"))
    with pytest.raises(ValueError, match="there are none"):
        Scop().prepare(copy.deepcopy(resnet), without)


def test_every_layer_that_any_mode_prunes_has_scores(state: Any, resnet: nn.Module) -> None:
    assert set(state) == {"layers", "beta", "settings"}
    for mode in ("inner", "group", "scatter"):
        for coupling in couplings_of(resnet, mode).values():
            normed = set(dict(coupling.norm_of))
            assert normed & set(state["layers"]), coupling.name
    gamma = resnet.get_submodule("layer1.0.bn1").weight
    expected = gamma.abs() * (2 * state["beta"]["layer1.0.conv1"] - 1)
    assert torch.allclose(state["layers"]["layer1.0.conv1"], expected)


def test_prepared_scores_give_the_orders_of_scores_made_on_the_spot(state: Any, resnet: nn.Module, scop: Scop) -> None:
    couplings = list(couplings_of(resnet, "group").values())
    found = [scop.orders(couplings, {}, replace(context_of(resnet, state=own), model=resnet)) for own in (state, None)]
    assert found[0] == found[1]


# --- orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_the_lowest_scores_are_removed_first(keep: float, state: Any, resnet: nn.Module, scop: Scop) -> None:
    _, steps = pruned(resnet, scop, context_of(resnet, state=state), keep)
    scores = state["layers"]["layer1.0.conv1"]
    best = scores.argsort(descending=True, stable=True)[: int(keep * len(scores))].sort().values
    assert kept(steps)["layer1.0.conv1"] == best.tolist()


def test_the_order_of_a_stream_follows_the_mean_of_its_writers(state: Any, resnet: nn.Module, scop: Scop) -> None:
    coupling = next(c for c in couplings_of(resnet, "group").values() if len(c.producers) > 1)
    own = torch.stack([state["layers"][writer] for writer in coupling.producers if writer in state["layers"]]).mean(0)
    order = scop.order(coupling, {}, replace(context_of(resnet, state=state), model=resnet))
    scores = own[list(order)]
    assert bool((scores[1:] >= scores[:-1]).all())


@pytest.mark.parametrize("mode", ["inner", "group"])
@pytest.mark.parametrize("substituted", [False, True], ids=["plain", "ghosted"])
def test_a_dry_run_knows_every_width(substituted: bool, mode: str, state: Any, resnet: nn.Module, scop: Scop) -> None:
    """Also after ghost modules, whose order of channels is only known in a real run."""
    found = []
    for dry_run in (True, False):
        context, entering = context_of(resnet, dry_run=dry_run, state=None if dry_run else state), None
        if substituted:
            chooser = Replay({"ratio.model": 2, "kernel": 3, "variant": "bn-act", "init": "lstsq"})
            params = Ghost().search_space(Space(chooser, "model"), resnet)
            entering, _ = Ghost().apply(copy.deepcopy(resnet), params, context)
        found.append(shapes(pruned(resnet, scop, context, 0.625, entering=entering, mode=mode)[0]))
    assert found[0] == found[1]
    assert found[0] != shapes(resnet)


def test_substituted_layers_get_the_scores_of_the_layers_that_they_replace(
    state: Any, resnet: nn.Module, scop: Scop
) -> None:
    """An intrinsic map with its ghosts gets the mean of the scores of the replaced channels."""
    context = context_of(resnet, state=state)
    chooser = Replay({"ratio.model": 2, "kernel": 3, "variant": "bn-act", "init": "lstsq"})
    ghosted, _ = Ghost().apply(copy.deepcopy(resnet), Ghost().search_space(Space(chooser, "model"), resnet), context)
    _, steps = pruned(resnet, scop, context, 0.5, entering=ghosted)
    module = ghosted.get_submodule("layer2.0.conv1")
    (spec,) = [spec for spec in specs() if type(module) is spec.layer_type]
    original = state["layers"]["layer2.0.conv1"][spec.channel_map(module)]
    scores = original.view(2, -1).mean(0)
    best = scores.argsort(descending=True, stable=True)[: len(scores) // 2].sort().values
    assert kept(steps)["layer2.0.conv1"] == best.tolist()


# --- statistics -----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_pruned_network(state: Any, resnet: nn.Module, scop: Scop) -> None:
    """Without a refit."""
    context = context_of(resnet, state=state)
    model, _ = pruned(resnet, scop, context)
    norm = model.get_submodule("layer4.0.bn2")
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    assert context.transfer is not None
    with torch.no_grad():
        model(next(iter(context.transfer.calibration.loader(64)))[0])
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=0.05, atol=0.02)


def test_statistics_are_kept_if_the_data_demand_it(state: Any, resnet: nn.Module, scop: Scop) -> None:
    context = context_of(resnet, state=state)
    assert context.transfer is not None
    frozen = replace(context, transfer=replace(context.transfer, demands=frozenset({"freeze_batch_norm"})))
    model, steps = pruned(resnet, scop, frozen)
    before, after = (m.get_submodule("layer1.0.bn1").running_mean for m in (resnet, model))
    assert torch.equal(after, before[kept(steps)["layer1.0.conv1"]])

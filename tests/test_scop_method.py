"""The transform ``scop``: its space, what it leaves alone and why, and that widths are known before anything trains."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.compression.recipe import Policy, Replay
from autocompress.compression.store import pack, unpack
from autocompress.contract import Context, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.graph import facts
from autocompress.models import stem
from autocompress.testing import check_transform, example_context, example_job, example_model
from autocompress.testing.rules import shapes
from autocompress_ghost import Ghost
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scores import CRITERIA
from autocompress_scop.scoring import ScoreSettings

QUICK = ScoreSettings(criteria=("magnitude", "bn-scale", "random"))
"""No score training: for what does not depend on the criterion."""


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
    """Prepared and kept, as the pipeline does it."""
    made = scop.prepare(copy.deepcopy(resnet), example_context(resnet, teacher=resnet))
    return unpack(*pack(made))


def params_of(model: nn.Module, scop: Scop, rate: float = 0.5, **values: Any) -> Params:
    asked = {"rate": rate, "rate.model": rate, "multiple": 1, **values}
    return scop.search_space(Space(Replay(asked), "model"), model)


def context_of(model: nn.Module, *, dry_run: bool = False, state: Any = None) -> Context:
    return replace(example_context(model, dry_run=dry_run, teacher=None if dry_run else model), state=state)


def pruned(model: nn.Module, scop: Scop, params: Params, context: Context) -> nn.Module:
    return scop.apply(copy.deepcopy(model), params, context)[0]


# --- the contract ---------------------------------------------------------------------------------------------------


def test_a_global_ranking_conforms(resnet: nn.Module, scop: Scop) -> None:
    check_transform(scop, resnet, params_of(resnet, scop, ranking="global", mode="group", criterion="scop"))


# --- the space ------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_but_rates_where_all_are_zero(resnet: nn.Module, scop: Scop) -> None:
    space = Space(Policy({}), "stage")
    params = scop.search_space(space.scope("scop"), resnet)
    assert not scop.acts(params)
    assert all(name == "scop.ranking" or name.startswith("scop.rate.") for name in space.asked)
    assert {f"scop.rate.layer{i}" for i in (1, 2, 3, 4)} <= set(space.asked)


@pytest.mark.parametrize(("ranking", "structural"), [("uniform", False), ("global", True)])
def test_the_criterion_is_structural_where_it_decides_widths(
    ranking: str, structural: bool, resnet: nn.Module, scop: Scop
) -> None:
    space = Space(Replay({"scop.ranking": ranking}))
    scop.search_space(space.scope("scop"), resnet)
    assert space.asked["scop.criterion"].structural is structural
    decide = ("ranking", "rate", "mode", "multiple")
    widths = [name for name in space.asked if name.split(".")[1] in decide]
    assert all(space.asked[name].structural for name in widths)


def test_a_group_with_rate_zero_stays_whole(resnet: nn.Module) -> None:
    scop = Scop(QUICK)
    values = {"rate.stem": 0.0, "rate.layer1": 0.0, "rate.layer2": 0.0, "rate.layer3": 0.0, "rate.layer4": 0.5}
    for mode in ("inner", "group"):
        params = scop.search_space(Space(Replay({**values, "multiple": 1, "mode": mode}), "stage"), resnet)
        plan = scop.apply(copy.deepcopy(resnet), params, context_of(resnet))[1]
        assert plan["keep"]
        assert all(name.startswith("layer4.") for name in plan["keep"])


def test_score_settings_are_part_of_the_version() -> None:
    longer = Scop(ScoreSettings(scales=ScaleSettings(epochs=8)))
    assert len({Scop().version, longer.version, Scop(QUICK).version}) == 3
    assert Scop().version == Scop.version


def test_modes_are_part_of_the_version() -> None:
    """The prepared state, which is kept by it, holds what each mode ranks."""
    offered = [("inner", "group"), ("scatter",), ("inner",)]
    assert len({Scop(QUICK, modes=modes).version for modes in offered}) == 3
    assert Scop(QUICK, modes=("inner", "group")).version == Scop(QUICK).version


# --- what is left alone, and why ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inner", "group"])
def test_the_stem_keeps_its_width_unless_a_stream_is_tied_to_it(mode: str, resnet: nn.Module) -> None:
    scop = Scop(QUICK)
    plan = scop.apply(copy.deepcopy(resnet), params_of(resnet, scop, mode=mode), context_of(resnet))[1]
    reasons = scop.reasons(resnet, mode)
    assert not set(plan["keep"]) & {*stem(resnet), "fc"}
    assert "output" in reasons["fc"]
    assert "reads the image" in reasons[stem(resnet)[0]]
    assert not set(reasons) & set(plan["keep"])


def test_reasons_where_it_cannot_act() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)) if x.sum() > 0 else self.conv(-x).mean((2, 3))

    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    for model in (Unread(), linear):
        model.pretrained_cfg = {"input_size": (3, 8, 8), "num_classes": 10}  # type: ignore[assignment]
        reasons = Scop().check(model, example_job())
        assert len(reasons) == 1
        assert reasons[0]


def test_what_would_remove_nothing_is_an_invalid_recipe(resnet: nn.Module, state: Any, scop: Scop) -> None:
    with pytest.raises(InvalidRecipe, match="no layer loses a channel"):
        params_of(resnet, scop, rate=0.01)
    params = params_of(resnet, scop)
    for rate in (1.0, -0.1):
        wrong = {**params, "rates": dict.fromkeys(params["rates"], rate)}
        with pytest.raises(InvalidRecipe, match=r"\[0, 1\)"):
            scop.apply(copy.deepcopy(resnet), wrong, context_of(resnet, state=state))
    nothing = {**params, "rates": dict.fromkeys(params["rates"], 0.001)}
    with pytest.raises(InvalidRecipe, match="no layer loses a channel"):
        scop.apply(copy.deepcopy(resnet), nothing, context_of(resnet, state=state))


def test_scores_need_images(resnet: nn.Module) -> None:
    context = example_context(resnet, teacher=resnet)
    assert context.transfer is not None
    empty = context.transfer.train.take(torch.arange(0))
    without = replace(context, transfer=TransferSet(empty, empty, "none"))
    with pytest.raises(ValueError, match="there are none"):
        Scop().prepare(copy.deepcopy(resnet), without)
    assert Scop(QUICK).prepare(copy.deepcopy(resnet), without)["beta"] == {}


# --- scores are made once, and what they decide ---------------------------------------------------------------------


def test_scores_are_prepared_once_for_every_criterion(state: Any, resnet: nn.Module, scop: Scop) -> None:
    assert set(state["layers"]) == set(CRITERIA)
    layers = set(params_of(resnet, scop)["rates"])
    assert all(set(own) == layers for own in state["layers"].values())
    gamma = resnet.get_submodule("layer1.0.bn1").weight
    expected = gamma.abs() * (2 * state["beta"]["layer1.0.conv1"] - 1)
    assert torch.allclose(state["layers"]["scop"]["layer1.0.conv1"], expected)


def test_prepared_or_made_on_the_spot_the_scores_are_the_same(state: Any, resnet: nn.Module, scop: Scop) -> None:
    params = params_of(resnet, scop, criterion="scop")
    plans = [scop.apply(copy.deepcopy(resnet), params, context_of(resnet, state=s))[1] for s in (state, None)]
    assert plans[0] == plans[1]


def test_the_lowest_scores_go(state: Any, resnet: nn.Module, scop: Scop) -> None:
    for criterion in CRITERIA:
        plan = scop.apply(
            copy.deepcopy(resnet), params_of(resnet, scop, criterion=criterion), context_of(resnet, state=state)
        )[1]
        scores = state["layers"][criterion]["layer1.0.conv1"]
        best = scores.argsort(descending=True, stable=True)[: len(scores) // 2].sort().values
        assert plan["keep"]["layer1.0.conv1"] == best.tolist()


@pytest.mark.parametrize("ranking", ["uniform", "global"])
@pytest.mark.parametrize("substituted", [False, True], ids=["plain", "ghosted"])
def test_a_dry_run_knows_every_width(
    ranking: str, substituted: bool, state: Any, resnet: nn.Module, scop: Scop
) -> None:
    """With prepared state exactly, also behind ghost modules, whose order of channels only the real run knows."""
    for mode in ("inner", "group"):
        params = params_of(resnet, scop, rate=0.4, ranking=ranking, criterion="scop", mode=mode)
        found = []
        for dry_run in (True, False):
            context = context_of(resnet, dry_run=dry_run, state=state)
            model = copy.deepcopy(resnet)
            if substituted:
                chooser = Replay({"ratio.model": 2, "kernel": 3, "variant": "bn-act", "init": "lstsq"})
                ghost = Ghost()
                model, _ = ghost.apply(model, ghost.search_space(Space(chooser, "model"), resnet), context)
            found.append(shapes(scop.apply(model, params, context)[0]))
        assert found[0] == found[1]
        assert found[0] != shapes(resnet)


def test_without_state_a_dry_run_has_the_widths_of_the_uniform_ranking(resnet: nn.Module, scop: Scop) -> None:
    dry = context_of(resnet, dry_run=True)
    uniform, ranked = (
        shapes(pruned(resnet, scop, params_of(resnet, scop, ranking=ranking), dry)) for ranking in ("uniform", "global")
    )
    assert uniform == ranked


def test_a_global_ranking_takes_more_where_scores_are_low(state: Any, resnet: nn.Module, scop: Scop) -> None:
    low = copy.deepcopy(state)
    for scores in low["global"]["magnitude"]["inner"].values():
        scores.fill_(1.0)
    low["global"]["magnitude"]["inner"]["layer4.0.conv1"].fill_(0.1)
    params = params_of(resnet, scop, rate=0.3, ranking="global", criterion="magnitude", mode="inner")
    keep = scop.apply(copy.deepcopy(resnet), params, context_of(resnet, state=low))[1]["keep"]
    wide = facts(resnet, (3, 32, 32)).layers["layer4.0.conv1"].out_channels
    assert len(keep["layer4.0.conv1"]) < 0.3 * wide


@pytest.mark.parametrize(("rate", "multiple"), [(0.3, 4), (0.5, 8), (0.7, 16)])
def test_kept_channels_are_a_multiple_of_what_the_runtime_likes(
    rate: float, multiple: int, resnet: nn.Module, scop: Scop
) -> None:
    params = params_of(resnet, scop, rate=rate, multiple=multiple, mode="group")
    plan = scop.apply(copy.deepcopy(resnet), params, context_of(resnet, dry_run=True))[1]
    assert plan["keep"]
    assert all(len(keep) % multiple == 0 for keep in plan["keep"].values())


# --- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_pruned_network(state: Any, resnet: nn.Module, scop: Scop) -> None:
    context = context_of(resnet, state=state)
    model = pruned(resnet, scop, params_of(resnet, scop, criterion="scop"), context)
    norm = model.get_submodule("layer4.0.bn2")
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    assert context.transfer is not None
    with torch.no_grad():
        model(next(iter(context.transfer.calibration.loader(64)))[0])
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=0.05, atol=0.02)


def test_statistics_stay_where_the_data_demands_it(state: Any, resnet: nn.Module, scop: Scop) -> None:
    context = context_of(resnet, state=state)
    assert context.transfer is not None
    frozen = replace(context, transfer=replace(context.transfer, demands=frozenset({"freeze_batch_norm"})))
    params = params_of(resnet, scop, criterion="magnitude")
    model, plan = scop.apply(copy.deepcopy(resnet), params, frozen)
    kept = plan["keep"]["layer1.0.conv1"]
    before, after = (m.get_submodule("layer1.0.bn1").running_mean for m in (resnet, model))
    assert torch.equal(after, before[kept])

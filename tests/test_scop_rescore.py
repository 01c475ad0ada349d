"""Scores of a substituted network.

Made after a recovery, for its own layers, with widths that are known before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_stage import kept, pruned, specs
from small_networks import NARROW
from torch import nn

from autocompress.compression import prune
from autocompress.contract import Callback, Context, Space
from autocompress.job import load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy, Replay
from autocompress.testing import example_context, example_model
from autocompress.testing.rules import shapes
from autocompress_ghost import Ghost, GhostConv2d
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.rescoring import is_substituted
from autocompress_scop.scoring import ScoreSettings

QUICK = ScoreSettings(scales=ScaleSettings(epochs=1))


def ghosted(model: nn.Module, context: Context, variant: str = "bn-act") -> nn.Module:
    chooser = Replay({"ratio.model": 2, "kernel": 3, "variant": variant, "init": "lstsq"})
    return Ghost().apply(copy.deepcopy(model), Ghost().search_space(Space(chooser, "model"), model), context)[0]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return example_model()


@pytest.fixture(scope="module")
def scop() -> Scop:
    return Scop(QUICK)


@pytest.fixture(scope="module")
def context(resnet: nn.Module, scop: Scop) -> Context:
    """The context that the engine gives, with the scores of the baseline."""
    found = example_context(resnet, teacher=copy.deepcopy(resnet))
    return replace(found, state=scop.prepare(copy.deepcopy(resnet), found))


class Watch:
    """Records the scores made in ``apply``: the weights of the scored network, and the scores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.networks: list[dict[str, torch.Tensor]] = []
        self.found: list[dict[str, Any]] = []
        original = Scop._scored

        def watched(method: Scop, network: nn.Module, *others: Any) -> dict[str, Any]:
            self.networks.append(copy.deepcopy(network.state_dict()))
            self.found.append(original(method, network, *others))
            return self.found[-1]

        monkeypatch.setattr(Scop, "_scored", watched)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_it_is_scored_after_a_recovery_and_pruned_by_these_scores(
    watch: Watch, resnet: nn.Module, scop: Scop, context: Context
) -> None:
    before = ghosted(resnet, context)
    _, steps = pruned(resnet, scop, context, entering=before, rescore_epochs=1)
    assert len(watch.networks) == 1
    own = watch.networks[0]
    assert own.keys() == before.state_dict().keys(), "the substituted network"
    assert all(not torch.equal(own[name], weight) for name, weight in before.named_parameters() if weight.dim() == 4), (
        "the whole network was trained"
    )
    module = before.get_submodule("layer2.0.conv1")
    assert isinstance(module, GhostConv2d)
    assert not module.restore
    scores = watch.found[0]["layers"]["layer2.0.conv1"].view(2, -1).mean(0)  # an intrinsic map and its ghost
    assert (
        kept(steps)["layer2.0.conv1"]
        == scores.argsort(descending=True, stable=True)[: len(scores) // 2].sort().values.tolist()
    )
    _, plain = pruned(resnet, scop, context, entering=before)
    assert len(watch.networks) == 1, "without scoring, those of the baseline are used"
    assert kept(plain) != kept(steps)


@pytest.mark.parametrize("variant", ["bare", "bn-act"])
@pytest.mark.parametrize("mode", ["inner", "group"])
def test_a_dry_run_has_the_structure_and_trains_nothing(
    mode: str, variant: str, watch: Watch, resnet: nn.Module, scop: Scop, context: Context
) -> None:
    before = ghosted(resnet, context, variant)
    bare = replace(context, dry_run=True, transfer=None, teacher=None, state=None)
    dry, _ = pruned(resnet, scop, bare, entering=before, mode=mode, rescore_epochs=1)
    assert not watch.networks
    real, steps = pruned(resnet, scop, context, entering=before, mode=mode, rescore_epochs=1)
    assert len(watch.networks) == 1
    assert shapes(dry) == shapes(real) != shapes(before)
    rebuilt = prune.rebuild(copy.deepcopy(before), steps[0]["plan"], specs())
    rebuilt.load_state_dict(real.state_dict())


def test_the_baseline_is_not_scored_again(watch: Watch, resnet: nn.Module, scop: Scop, context: Context) -> None:
    _, steps = pruned(resnet, scop, context, rescore_epochs=1)
    assert not watch.networks
    assert kept(steps) == kept(pruned(resnet, scop, context)[1])


def test_changed_weights_count_as_a_substitution(resnet: nn.Module) -> None:
    other = copy.deepcopy(resnet)
    assert not is_substituted(other, resnet)
    with torch.no_grad():
        other.get_submodule("layer3.0.conv1").weight[0, 0, 0, 0] += 1
    assert is_substituted(other, resnet)


def test_substituted_layers_are_trained_before_scoring(resnet: nn.Module, scop: Scop, context: Context) -> None:
    """Callbacks of earlier methods take part. A measurement may pause every batch."""
    happened: list[str] = []

    class Counting(Callback):
        def before_step(self, model: nn.Module, step: int) -> None:
            happened.append("step")

    def callbacks(model: nn.Module) -> Sequence[Callback]:
        assert any(isinstance(module, GhostConv2d) for module in model.modules())
        return [Counting()]

    own = replace(context, callbacks=callbacks, pause=lambda: happened.append("pause"))
    pruned(resnet, scop, own, entering=ghosted(resnet, context), rescore_epochs=2)
    assert happened.count("step") == 4, "two epochs of two batches"
    assert happened.count("pause") == 4 + 2 + 1, "those, the two of one score epoch, and one after PRUNE"


@pytest.mark.slow
def test_in_a_recipe_with_ghost_modules(opened: OpenedJob, watch: Watch) -> None:
    job = load_job(
        model="resnet10t",
        model_args=NARROW,
        data="digits",
        baseline={"epochs": 4},
        budget={"epochs": 1},
        methods=["ghost", "scop"],
        space={"scop": {"rescore_epochs": 1, "score_epochs": 1, "score_images": 64}},
        name="scop-rescore",
    )
    del opened  # uses the baseline of the job above
    own = OpenedJob.open(job)
    watch.networks.clear()
    values = own.compose(Policy({"ghost": "default", "prune": "default"})).values
    recipe = own.compose(Replay({**values, "recover.epochs": 0}))
    dry = own.candidate(recipe, dry_run=True)
    assert not watch.networks
    real = own.candidate(recipe)
    assert len(watch.networks) == 1
    assert shapes(dry.model) == shapes(real.model)
    again = own.candidate(recipe)
    assert len(watch.networks) == 1, "the stage is stored"
    assert again.cache_hits

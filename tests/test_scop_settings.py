"""How SCOP's scores are made, as a job's YAML says it, and a substituted network that is scored itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.compression.recipe import Replay
from autocompress.compression.workbench import Workbench
from autocompress.contract import Context, Params, Space
from autocompress.testing import example_context, example_model
from autocompress_ghost import Ghost
from autocompress_scop.method import Scop


def asked(model: nn.Module, scop: Scop, **limits: Any) -> Params:
    limits = {"scop.rate": 0.5, "scop.multiple": 1, **{f"scop.{name}": value for name, value in limits.items()}}
    return scop.search_space(Space(Replay({}), "model", limits).scope("scop"), model)


def test_settings_are_not_searched_but_may_be_fixed() -> None:
    scop, model = Scop(), example_model()
    space = Space(Replay({}), "model")
    params = scop.search_space(space, model)
    assert (params["score_epochs"], params["knockoffs"], params["mixing"], params["rescore_epochs"]) == (
        1,
        "gaussian",
        "pre_bn",
        0,
    )
    assert all(len(space.asked[name].choices) == 1 for name in ("score_epochs", "score_lr", "knockoffs", "mixing"))
    assert scop.shared(params) == {} == scop.shared({})
    assert scop.shared(asked(model, scop, score_epochs=2))["score_epochs"] == 2


def test_what_a_job_fixes_is_how_scores_are_made() -> None:
    scop, model = Scop(), example_model()
    context = example_context(model, teacher=copy.deepcopy(model))
    params = asked(model, scop, knockoffs="permute", mixing="post_bn", score_epochs=0)
    state = scop.prepare(copy.deepcopy(model), replace(context, params=scop.shared(params)))
    made = state["settings"]
    assert (made["knockoffs"], made["scales"]["mixing"], made["scales"]["epochs"]) == ("permute", "post_bn", 0)
    assert all(bool((scores == 0).all()) for scores in state["layers"]["scop"].values()), "beta stayed one half"


def test_each_setting_is_prepared_and_kept_for_itself(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    scop = next(method for method in bench.methods if isinstance(method, Scop))

    def count(baseline: nn.Module, context: Context) -> Any:
        made.append(context.params.get("score_epochs", 1))
        return {"none": torch.zeros(1)}

    monkeypatch.setattr(type(scop), "prepare", lambda self, baseline, context: count(baseline, context))
    params = asked(bench.model, scop, score_epochs=3)
    context = bench.pipeline._context(False, None)
    for _ in range(2):
        bench.pipeline._prepared(scop, params, context)
    assert made == [3]


def test_a_substituted_network_is_scored_itself_after_a_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    scop, model = Scop(), example_model()
    teacher = copy.deepcopy(model)
    context = example_context(model, teacher=teacher)
    context = replace(context, state=scop.prepare(copy.deepcopy(model), context))
    ghost = Ghost()
    how = ghost.search_space(Space(Replay({}), "model"), model)
    substituted, _ = ghost.apply(copy.deepcopy(model), how, context)
    assert repr(substituted) != repr(model)
    params = asked(model, scop, rescore_epochs=1)
    scored: list[nn.Module] = []
    original = Scop._scored

    def watch(self: Scop, network: nn.Module, *others: Any) -> Any:
        scored.append(network)
        return original(self, network, *others)

    monkeypatch.setattr(Scop, "_scored", watch)
    before = copy.deepcopy(substituted)
    pruned, plan = scop.apply(substituted, params, context)
    assert len(scored) == 1
    own, other = scored[0].state_dict(), before.state_dict()
    assert any(not torch.equal(own[name], other[name]) for name in own if name in other and name.endswith("weight"))
    dry, dry_plan = scop.apply(copy.deepcopy(before), params, replace(context, dry_run=True, transfer=None))
    assert {k: v.shape for k, v in dry.state_dict().items()} == {k: v.shape for k, v in pruned.state_dict().items()}
    assert len(scored) == 1, "a dry run trains nothing"
    scop.apply(copy.deepcopy(model), params, context)
    assert len(scored) == 1, "the baseline has its scores already"
    assert plan["keep"].keys() == dry_plan["keep"].keys()

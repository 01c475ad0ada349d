"""Typical mistakes of plugin authors, one in each class. The conformance suite finds all of them.

The docstring of each class is the rule that must be named, as a regular expression.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from patience import slowness
from small_networks import TWO_BLOCKS
from test_conformance import LowRank, _Defaults
from torch import nn

from autocompress.contract import Context, Params, Plan, Space, Transform
from autocompress.testing import ContractViolation, check_method, check_transform, example_model, transforms


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model(args=TWO_BLOCKS)


@pytest.fixture(autouse=True)
def _without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the export, which takes half of the time. No mistake here concerns it."""
    monkeypatch.setattr(transforms, "_check_export", lambda *_: None)


class Base(LowRank):  # type: ignore[valid-type,misc]
    """A correct transform, from which the faulty ones are derived."""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        return model

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        return self.after(model, plan, context), plan


def energy_share(model: nn.Module) -> float:
    """The share of singular values that have 90 % of the energy of a layer."""
    values = torch.linalg.svdvals(model.get_submodule("layer2.0.conv2").weight.detach().flatten(1)).square()
    return float((values.cumsum(0) < 0.9 * values.sum()).float().mean())


# --- structure ------------------------------------------------------------------------------------


class OtherActivationInRebuild(Base):
    """rebuild.* must give the structure"""

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        model = super().rebuild(model, plan)
        model.set_submodule("layer1.0.act1", nn.Hardswish().eval())
        return model


class OtherActivationInDryRun(Base):
    """a dry run .* the graphs differ"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.dry_run:
            model.set_submodule("layer1.0.act1", nn.ReLU6().eval())
        return model


class OtherStrideInDryRun(Base):
    """a dry run .* the graphs differ"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.dry_run:
            model.get_submodule("layer2.0.conv1")[0].stride = (1, 1)
        return model


class OtherPoolingInDryRun(Base):
    """a dry run .* the graphs differ"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        kind = nn.MaxPool2d if context.dry_run else nn.AvgPool2d
        model.set_submodule("layer1.0.act1", nn.Sequential(nn.ReLU(), kind(3, 1, 1)).eval())
        return model

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        model = super().rebuild(model, plan)
        model.set_submodule("layer1.0.act1", nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, 1, 1)).eval())
        return model


class RanksByWeights(Base):
    """the structure must follow from params, not from the values of weights"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        share = energy_share(model)
        return super().apply(model, dict.fromkeys(params, share), context)


class RanksByState(Base):
    """the structure must not depend on what prepare returned"""

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        return {"share": energy_share(baseline)}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return super().apply(model, dict.fromkeys(params, context.state["share"]), context)


class RemembersThePlan(Base):
    """rebuild must follow its plan alone, and remember nothing of earlier calls"""

    last: Plan | None = None

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        self.last = plan
        return model

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return super().rebuild(model, plan if self.last is None else self.last)


class RemembersInItsClass(Base):
    """rebuild must follow its plan alone, and remember nothing of earlier calls"""

    last: ClassVar[list[Plan]] = []

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        self.last[:] = [plan]
        return model

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return super().rebuild(model, self.last[0])


class ForgetsInRebuild(Base):
    """outputs differ, so the plan lacks something"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        model.get_submodule("layer1.0.bn1").eps = 0.5
        return model


# --- random numbers -------------------------------------------------------------------------------


class PreparesAtRandom(Base):
    """prepare must return the same again for one context.seed"""

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        return {"noise": torch.rand(3)}


class DrawsFromNumpy(Base):
    """equal models and plans for equal context.seed"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).add_(float(np.random.rand()))
        return model


# --- what was given -------------------------------------------------------------------------------


class HooksTheTeacher(Base):
    """must not change context.teacher: hooks are left on it"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.teacher is not None:
            context.teacher.register_forward_hook(lambda *_: None)
        return model


class FreezesTheTeacher(Base):
    """must not change context.teacher: requires_grad of a parameter was changed"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.teacher is not None:
            context.teacher.requires_grad_(False)
        return model


class TrainsTheTeacher(Base):
    """must not change context.teacher: it is left in training mode"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.teacher is not None:
            context.teacher.train()
        return model


class SharesWithTheTeacher(Base):
    """must not share tensors with context.teacher; fc.weight"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        if context.teacher is not None:
            model.get_submodule("fc").weight = context.teacher.get_submodule("fc").weight
        return model


class ChangesTheBaselineInPrepare(Base):
    """prepare must leave the baseline as it is"""

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        baseline.train()


# --- what is returned -----------------------------------------------------------------------------


class LeavesAHook(Base):
    """must not leave hooks on the model that it returns"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        model.get_submodule("layer1").register_forward_hook(lambda *_: None)
        return model


class LeavesTrainingMode(Base):
    """apply must return a model in eval mode"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        return model.train()


class Freezes(Base):
    """must not freeze parameters; .* fc.bias"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        model.get_submodule("fc").requires_grad_(False)
        return model


class Rescales(Base):
    """must not rescale weights .* fc.weight"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        with torch.no_grad():
            model.get_submodule("fc").weight.mul_(2)
        return model


class TiesParameters(Base):
    """two parameters must not share one tensor"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        model.get_submodule("layer1.0.bn1").bias = model.get_submodule("layer1.0.bn1").weight
        return model


class Wraps(Base):
    """apply must keep the names of blocks and stages"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        return nn.Sequential(model).eval()


class RenamesAStage(Base):
    """apply must keep the names of blocks and stages; layer2"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        model.stage2 = model.layer2
        model.layer2 = nn.Identity().eval()
        return model


# --- the space ------------------------------------------------------------------------------------


class AsksByWeights(Base):
    """must ask for the same parameters whatever the weights are"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        scale = round(float(model.get_submodule("fc").weight.abs().mean()), 4)
        space.float("scale", 0.0, 1.0, default=min(scale, 1.0))
        return super().search_space(space, model)


CHOICES = ["half", "one half", "quarter", "none"]


class ThirdChoiceIsStructural(Base):
    """keep has structural=False, yet 'quarter' gives another structure"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        keep = space.categorical("keep", CHOICES, default="half", neutral="none", structural=False)
        share = {"half": 0.5, "one half": 0.5, "quarter": 0.25}.get(str(keep))
        names = super().search_space(Space(_Defaults()), model)
        return {} if share is None else dict.fromkeys(names, share)


class IntegerIsStructural(Base):
    """rank has structural=False"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        rank = space.integer("rank", 1, 10, default=5, neutral=10, structural=False)
        names = super().search_space(Space(_Defaults()), model)
        return {} if rank == 10 else dict.fromkeys(names, rank / 10)


class FloatIsStructural(Base):
    """keep has structural=False"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        keep = space.float("keep", 0.1, 1.0, default=0.5, neutral=1.0, structural=False)
        names = super().search_space(Space(_Defaults()), model)
        return {} if keep == 1.0 else dict.fromkeys(names, keep)


class WrongCheapest(Base):
    """its cheapest value is 0.5, yet 0.25 needs fewer multiply-adds"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        keep = space.categorical("keep", [0.5, 0.25, 1.0], default=0.5, cheapest=0.5, neutral=1.0)
        names = super().search_space(Space(_Defaults()), model)
        return {} if keep == 1.0 else dict.fromkeys(names, keep)


class RaisesByItself(Base):
    """a plugin must not raise KeyError here"""

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return super().rebuild(model, plan["missing"])


AT_ONE_POINT = [
    OtherActivationInRebuild,
    OtherActivationInDryRun,
    OtherStrideInDryRun,
    OtherPoolingInDryRun,
    RanksByWeights,
    RanksByState,
    ForgetsInRebuild,
    PreparesAtRandom,
    DrawsFromNumpy,
    HooksTheTeacher,
    FreezesTheTeacher,
    TrainsTheTeacher,
    SharesWithTheTeacher,
    ChangesTheBaselineInPrepare,
    LeavesAHook,
    LeavesTrainingMode,
    Freezes,
    Rescales,
    TiesParameters,
    Wraps,
    RenamesAStage,
    RaisesByItself,
]
IN_THE_SPACE = [
    AsksByWeights,
    RemembersThePlan,
    RemembersInItsClass,
    ThirdChoiceIsStructural,
    IntegerIsStructural,
    FloatIsStructural,
    WrongCheapest,
]


@pytest.mark.parametrize("broken", AT_ONE_POINT, ids=lambda broken: broken.__name__)
def test_a_mistake_in_a_transform_is_found(broken: type[Transform], model: nn.Module) -> None:
    params = Base().search_space(Space(_Defaults()).scope("lowrank"), model)
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_transform(broken(), model, params)


@pytest.mark.slow
@pytest.mark.parametrize("broken", IN_THE_SPACE, ids=lambda broken: broken.__name__)
def test_a_mistake_in_the_space_is_found(broken: type[Transform], model: nn.Module) -> None:
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_method(broken(), model)


@pytest.mark.slow
def test_a_correct_transform_conforms_within_a_minute(model: nn.Module) -> None:
    began = time.process_time()
    check_method(Base(), model)
    assert time.process_time() - began < 60 * slowness()


class ManyMistakes(Rescales, HooksTheTeacher):
    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        HooksTheTeacher.after(self, model, plan, context)
        return Rescales.after(self, model, plan, context).train()


def test_all_mistakes_are_reported_at_once(model: nn.Module) -> None:
    params = Base().search_space(Space(_Defaults()).scope("lowrank"), model)
    with pytest.raises(ContractViolation) as caught:
        check_transform(ManyMistakes(), model, params)
    text = "\n".join(caught.value.rules)
    for rule in ("hooks are left on it", "in eval mode", "must not rescale weights"):
        assert rule in text

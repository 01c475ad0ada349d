"""The conformance suite: our methods pass, and faulty transforms are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_networks import TWO_BLOCKS
from torch import nn

from autocompress.contract import Context, Manager, Method, Params, Plan, Space, Transform, Value
from autocompress.testing import (
    ContractViolation,
    check_method,
    check_transform,
    example_job,
    example_model,
    transforms,
)

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "autocompress_lowrank" / "autocompress_lowrank.py"


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("autocompress_lowrank", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()
LowRank: type[Transform] = example.LowRank


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


@pytest.fixture(scope="module")
def two_blocks() -> nn.Module:
    """The first two blocks of the model.

    A faulty method breaks its rule in them too, in a third of the time.
    """
    return example_model(args=TWO_BLOCKS)


INSTALLED = {method.name: method for method in Manager().methods()}
SMALL: dict[str, dict[str, Value]] = {
    "deepinversion": {"images": 12, "iterations": 3},
    "knowledge_within": {"images": 12, "iterations": 3},
    "zskd": {"images": 12, "iterations": 3},
}
"""Parameters of methods that take minutes with their defaults."""


@pytest.mark.parametrize("name", INSTALLED)
def test_every_installed_method_conforms(name: str, model: nn.Module) -> None:
    method = INSTALLED[name]
    job = example_job().model_copy(update={"objectives": ("accuracy", "energy"), "cost_model": "45nm"})
    # adder only applies to jobs with energy.
    limits = {f"{name}.{parameter}": value for parameter, value in SMALL.get(name, {}).items()}
    space = Space(_Defaults(), "model", limits)
    check_method(method, model, job, method.search_space(space.scope(name), model))
    assert set(limits) <= space.matched, "a parameter of SMALL has another name now"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "test_efficientnet", "test_byobnet"])
def test_ghost_conforms_on_other_families(architecture: str) -> None:
    other = example_model(architecture)
    method = Manager().method("ghost")
    assert isinstance(method, Transform)
    names = method.search_space(Space(_Defaults()).scope("ghost"), other)["ratios"]
    params = {"ratios": dict.fromkeys(names, 3), "kernel": 3, "variant": "bn-act", "init": "lstsq"}
    check_transform(method, other, params)


def test_the_example_plugin_is_found_and_conforms(two_blocks: nn.Module) -> None:
    model, manager = two_blocks, Manager(entry_points=False)
    manager.register(example, "lowrank")
    assert [method.name for method in manager.methods()] == ["lowrank"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_method(manager.method("lowrank"), model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), (
        "the model of the user must not change"
    )
    assert not model.training


# --- transforms that break one rule each ----------------------------------------------------------
# The docstring of each class is a regular expression for the expected message.


class _Defaults:
    def choose(self, parameter: Any) -> Any:
        return parameter.default


class OtherStructureInDryRun(LowRank):  # type: ignore[valid-type,misc]
    """must give the deployed structure of the real run"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return super().apply(model, dict.fromkeys(params, 0.1) if context.dry_run else params, context)


class OtherGraphInDryRun(LowRank):  # type: ignore[valid-type,misc]
    """the graphs differ"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        if context.dry_run:
            model.set_submodule("layer1.0.act1", nn.Sequential(nn.ReLU(), nn.ReLU()))
        return model, plan


class PlanWithTensor(LowRank):  # type: ignore[valid-type,misc]
    """the plan must be JSON"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        return model, {name: torch.tensor(rank) for name, rank in plan.items()}


class RebuildForgets(LowRank):  # type: ignore[valid-type,misc]
    """rebuild.* must give the structure"""

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return super().rebuild(model, dict(list(plan.items())[1:]))


class DrawsFromNowhere(LowRank):  # type: ignore[valid-type,misc]
    """for equal context.seed"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        with torch.no_grad():
            next(model.parameters()).add_(torch.randn(()))
        return model, plan


class TouchesTeacher(LowRank):  # type: ignore[valid-type,misc]
    """must not change context.teacher"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        if context.teacher is not None:
            next(context.teacher.parameters()).data.zero_()
        return super().apply(model, params, context)


class NeverLeavesAlone(LowRank):  # type: ignore[valid-type,misc]
    """one choice must leave the model unchanged"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        keep = space.categorical("keep", [0.25, 0.5], default=0.5, cheapest=0.25)
        return dict.fromkeys(super().search_space(Space(_Defaults()), model), keep)


class CheapestOutside(LowRank):  # type: ignore[valid-type,misc]
    """its cheapest value 0.1 is not one of"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        space.categorical("more", [0.25, 0.5], default=0.5, cheapest=0.1)
        return super().search_space(space, model)


class NamedValueIsAlsoDrawn(LowRank):  # type: ignore[valid-type,misc]
    """is either drawn or named by a job"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        space.categorical("more", ["a", "b"], default="a", named=["b"])
        return super().search_space(space, model)


class DefaultIsOnlyNamed(LowRank):  # type: ignore[valid-type,misc]
    """its default value 'c' is not one of a [|] b .*, which a search draws"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        space.categorical("more", ["a", "b"], default="c", named=["c"])
        return super().search_space(space, model)


class FaultyAtNamedValue(LowRank):  # type: ignore[valid-type,misc]
    """for equal context.seed"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        more = space.categorical("more", ["a", "b"], default="a", named=["c"])
        params = super().search_space(space, model)
        return {**params, "broken": True} if params and more == "c" else params

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        broken = "broken" in params
        model, plan = super().apply(model, {k: v for k, v in params.items() if k != "broken"}, context)
        if broken:
            with torch.no_grad():
                next(model.parameters()).add_(torch.randn(()))
        return model, plan


class SecretlyStructural(LowRank):  # type: ignore[valid-type,misc]
    """has structural=False"""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        keep = space.categorical("keep", [0.5, 0.25, 1.0], default=0.5, neutral=1.0, structural=False)
        names = super().search_space(Space(_Defaults()), model)
        return dict.fromkeys(names, keep) if keep < 1.0 else {}


class SaysNothing(LowRank):  # type: ignore[valid-type,misc]
    """check must return a list"""

    def check(self, model: nn.Module, job: Any) -> Any:
        return None


class LosesClasses(LowRank):  # type: ignore[valid-type,misc]
    """the output has shape"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        model.fc = nn.Linear(model.fc.in_features, 3)
        return model, plan


class UntrainedLeftovers(LowRank):  # type: ignore[valid-type,misc]
    """these get none"""

    def _with(self, model: nn.Module) -> nn.Module:
        model.leftover = nn.Parameter(torch.zeros(3))
        return model

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model, plan = super().apply(model, params, context)
        return self._with(model), plan

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return self._with(super().rebuild(model, plan))


BROKEN = [
    OtherStructureInDryRun,
    OtherGraphInDryRun,
    PlanWithTensor,
    RebuildForgets,
    DrawsFromNowhere,
    TouchesTeacher,
    NeverLeavesAlone,
    CheapestOutside,
    NamedValueIsAlsoDrawn,
    DefaultIsOnlyNamed,
    FaultyAtNamedValue,
    SecretlyStructural,
    SaysNothing,
    LosesClasses,
    UntrainedLeftovers,
]


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_faulty_transform_is_told_its_rule(
    broken: type[Transform], two_blocks: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check of the exported file takes half of the time, and none of these classes fails it.
    monkeypatch.setattr(transforms, "_check_export", lambda *_: None)
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_method(broken(), two_blocks)


def test_an_object_that_is_no_method_is_refused() -> None:
    class Neither(Method):
        name, version, reference, kind = "neither", "1", "none", "other"

        def search_space(self, space: Space, model: nn.Module) -> Params:
            return {}

    with pytest.raises(ContractViolation, match="a Transform, a Pruner, a Quantizer or a DataSource"):
        check_method(Neither())

"""Mistakes in transforms that an outside author planted: structure, names, state and settings.

The docstring of each class is the rule that must be named, as a regular expression.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_networks import TWO_BLOCKS
from test_conformance import _Defaults
from test_planted_mistakes import Base
from torch import nn
from violations import told

from autocompress.contract import Context, Params, Plan, Space, Transform
from autocompress.testing import ContractViolation, check_transform, example_model, transforms


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model(args=TWO_BLOCKS)


@pytest.fixture(autouse=True)
def _without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the export, which takes half of the time. No mistake here concerns it."""
    monkeypatch.setattr(transforms, "_check_export", lambda *_: None)


def shares(params: Params, share: float) -> Params:
    return dict.fromkeys(params, share)


def mean_of(context: Context) -> float:
    assert context.transfer is not None
    images, _ = next(iter(context.transfer.calibration.loader(8)))
    return float(images.mean())


# --- structure ------------------------------------------------------------------------------------


class OtherWithoutState(Base):
    """a dry run must give the same structure while context.state is None"""

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        return {"a": 1}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return super().apply(model, params if context.state is None else shares(params, 0.25), context)


class PreparedFromImages(Base):
    """the structure must not depend on what prepare returned"""

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        return {"share": 0.5 if mean_of(context) < 1 else 0.25}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return super().apply(
            model, params if context.state is None else shares(params, context.state["share"]), context
        )


class ByImages(Base):
    """the structure must follow from params, not from images or context.seed"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        is_dark = context.transfer is None or mean_of(context) < 1
        return super().apply(model, params if is_dark else shares(params, 0.25), context)


class BySeed(Base):
    """the structure must follow from params, not from images or context.seed"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return super().apply(model, shares(params, 0.25) if context.seed % 2 else params, context)


# --- names ----------------------------------------------------------------------------------------


class WrapsAStage(Base):
    """apply must keep the names of layers; layer1.0.bn1 is now layer1.0.0.bn1"""

    def after(self, model: nn.Module, plan: Plan, context: Context | None) -> nn.Module:
        model.layer1 = nn.Sequential(model.layer1).eval()  # type: ignore[arg-type]
        return model

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return self.after(super().rebuild(model, plan), plan, None)


class FreezesNewLayers(Base):
    """must not freeze parameters; requires_grad is False for .*0.weight"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        for name in plan:
            model.get_submodule(name)[0].weight.requires_grad_(False)
        return model


class FixesNormsInEval(Base):
    """every module must follow train\\(\\) and eval\\(\\); these do not: .*bn1"""

    def after(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True, own=module: own  # type: ignore[method-assign]
        return model


# --- settings of the process ----------------------------------------------------------------------


class SwitchesGradientsOff(Base):
    """settings of the process as they are, but changes torch's gradients"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        torch.set_grad_enabled(False)
        return super().apply(model, params, context)


class ChangesTheThreads(Base):
    """settings of the process as they are, but changes torch's threads"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        torch.set_num_threads(torch.get_num_threads() % 2 + 1)
        return super().apply(model, params, context)


class ChangesTheDefaultType(Base):
    """settings of the process as they are, but changes torch's default type"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        torch.set_default_dtype(torch.float64)
        return super().apply(model, params, context)


class WantsDeterminism(Base):
    """settings of the process as they are, but changes torch's deterministic algorithms"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        torch.use_deterministic_algorithms(mode=True)
        return super().apply(model, params, context)


class SeedsTheProcess(Base):
    """must not seed the global generator of torch"""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        torch.manual_seed(context.seed)
        return super().apply(model, params, context)


SETTINGS = [SwitchesGradientsOff, ChangesTheThreads, ChangesTheDefaultType, WantsDeterminism]
OTHERS = [OtherWithoutState, PreparedFromImages, ByImages, BySeed, FreezesNewLayers, FixesNormsInEval, SeedsTheProcess]


@pytest.mark.parametrize("broken", OTHERS, ids=lambda broken: broken.__name__)
def test_a_mistake_in_a_transform_is_found(broken: type[Transform], model: nn.Module) -> None:
    params = Base().search_space(Space(_Defaults()).scope("lowrank"), model)
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_transform(broken(), model, params)


def test_a_module_around_a_stage_is_found() -> None:
    model = example_model()  # its first stage has one block, and no layer beside the block
    params = Base().search_space(Space(_Defaults()).scope("lowrank"), model)
    assert WrapsAStage.__doc__
    assert WrapsAStage.__doc__ in told(check_transform, WrapsAStage(), model, params)


@pytest.mark.parametrize("broken", SETTINGS, ids=lambda broken: broken.__name__)
def test_a_changed_setting_is_the_only_rule_and_is_restored(broken: type[Transform], model: nn.Module) -> None:
    def now() -> tuple[Any, ...]:
        determinism = torch.are_deterministic_algorithms_enabled()
        return torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), determinism

    before = now()
    params = Base().search_space(Space(_Defaults()).scope("lowrank"), model)
    assert broken.__doc__
    text = told(check_transform, broken(), model, params)
    assert broken.__doc__ in text
    assert len(text.splitlines()) == 1
    assert now() == before


class RankByWeights(Base):
    """The rank depends on weights."""

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        values = torch.linalg.svdvals(model.get_submodule("layer2.0.conv2").weight.detach().flatten(1)).square()
        share = float((values.cumsum(0) < 0.9 * values.sum()).float().mean())
        return super().apply(model, {name: share * keep for name, keep in params.items()}, context)


def test_a_rule_is_reported_once_with_the_number_of_points(model: nn.Module) -> None:
    text = told(check_transform, RankByWeights(), model)
    assert text.count("the structure must follow from params, not from the values of weights") == 1
    assert "(at the defaults and 2 others)" in text

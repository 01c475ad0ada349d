"""Recipes: composed define-by-run, replayed, explored, and invalid for some methods."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import timm
from torch import nn

from autocompress.contract import Context, Method, Params, Plan, Quantizer, Space, Stage, Transform
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.recipes.choosers import Policy, Replay
from autocompress.recipes.parameters import every_parameter, space_size
from autocompress.recipes.recipe import Recipe, compose


class Widen(Transform):
    """A transform with a conditional parameter.

    There is a ``kernel`` only if ``ratio`` has an effect.
    """

    name, version, reference, stage = "widen", "1", "none", Stage.SUBSTITUTE

    def search_space(self, space: Space, model: nn.Module) -> Params:
        ratio = space.integer("ratio", 1, 3, default=2, cheapest=3, neutral=1)
        if ratio == 1:
            return {}
        return {"ratio": ratio, "kernel": space.categorical("kernel", [1, 3], default=3)}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return model


class Trained(Widen):
    """Needs training, and excludes methods that provide "wide"."""

    name, needs_training, min_epochs = "trained", True, 2
    excludes: ClassVar[frozenset[str]] = frozenset({"wide"})


class Uniform(Quantizer):
    name, version, reference = "uniform", "1", "none"
    weight_bits, activation_bits = (4, 8), (8,)

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"estimator": space.categorical("estimator", ["minmax", "mse"], default="minmax", structural=False)}

    def apply(self, spec: Any, params: Params, context: Context) -> Any:
        raise AssertionError("composing a recipe quantizes nothing")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=10)


METHODS: list[Method] = [Widen(), Uniform()]


def compose_with(chooser: Chooser, model: nn.Module, methods: list[Method] | None = None, epochs: int = 2) -> Recipe:
    return compose(Space(chooser, "model"), model, METHODS if methods is None else methods, epochs)


def test_neutral_values_do_not_change_the_model(model: nn.Module) -> None:
    recipe = compose_with(Policy({}), model)
    assert not recipe.transforms
    assert not recipe.bits
    assert not recipe.recover


def test_a_recipe_replays_to_itself(model: nn.Module) -> None:
    first = compose_with(Policy({"widen": "cheapest", "recover": "default", "bits": "cheapest"}), model)
    again = compose_with(Replay(first.values), model)
    assert again == first
    assert again.key == first.key
    assert first.bits["model"].weight_bits == 4
    assert first.transforms == [("widen", {"ratio": 3, "kernel": 3})]


def test_only_structural_values_decide_the_structural_key(model: nn.Module) -> None:
    one = compose_with(Replay({"quantize.estimator": "mse", "uniform.estimator": "mse"}), model)
    other = compose_with(Replay({"uniform.estimator": "minmax"}), model)
    assert one.key != other.key
    assert one.structural_key == other.structural_key
    assert compose_with(Replay({"widen.ratio": 3}), model).structural_key != one.structural_key


def test_conditional_parameters_are_found(model: nn.Module) -> None:
    def run(chooser: Chooser) -> Space:
        space = Space(chooser, "model")
        compose(space, model, METHODS, 2)
        return space

    found = every_parameter(run)
    assert {"widen.ratio", "widen.kernel", "recover.epochs", "recover.lr", "uniform.estimator"} <= set(found)
    assert space_size(found) >= 3 * 2 * 3


def test_training_is_not_optional_if_a_method_needs_it(model: nn.Module) -> None:
    recipe = compose_with(Policy({"trained": "default", "recover": "cheapest"}), model, [Trained()], epochs=3)
    assert recipe.recover["epochs"] >= 2
    with pytest.raises(InvalidRecipe, match="trained needs 2 epochs"):
        compose_with(Policy({"trained": "default"}), model, [Trained()], epochs=1)


def test_methods_that_exclude_each_other_are_an_invalid_recipe(model: nn.Module) -> None:
    class Wide(Widen):
        name = "wide"
        provides: ClassVar[frozenset[str]] = frozenset({"wide"})

    with pytest.raises(InvalidRecipe, match="cannot act together"):
        compose_with(Policy({"wide": "default", "trained": "default"}), model, [Wide(), Trained()], epochs=3)


def test_two_pruning_methods_are_an_invalid_recipe(model: nn.Module) -> None:
    class First(Widen):
        name, stage = "first", Stage.PRUNE

    class Second(Widen):
        name, stage = "second", Stage.PRUNE

    with pytest.raises(InvalidRecipe, match="only one pruning method"):
        compose_with(Policy({"first": "default", "second": "default"}), model, [First(), Second()])

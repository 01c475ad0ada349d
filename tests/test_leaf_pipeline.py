"""Leaf layers from a recipe to an artifact: pipeline, conformance, and sensitivity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import TWO_BLOCKS
from torch import nn
from toy_leaf import DistanceSpec, SlowSubstitute, Substitute, ToyPlugin, answers

from autocompress import models
from autocompress.compression import artifact
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.contract import Deployable, Grid, Manager, Space
from autocompress.export import check_agreement, export
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.recipe import Recipe
from autocompress.sensitivity.probing import measure
from autocompress.sensitivity.table import Setting, Width
from autocompress.store import Store
from autocompress.testing import ContractViolation, check_transform, example_context, example_model

# --- the whole way: pipeline, artifact, conformance, probing --------------------------------------


def toy_manager(method: Substitute) -> Manager:
    manager = Manager()
    manager.register(ToyPlugin(method), "toy-leaf")
    return manager


TRAINING = {"epochs": 1, "lr": 1e-3, "distill": 0.5, "norm": "corrected"} | {
    "norm_freeze": 0.5,
    "range_freeze": 0.5,
    "delay": 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("qat", [{}, TRAINING])
def test_an_artifact_is_rebuilt(qat: dict[str, Any], tmp_path: Path) -> None:
    baseline = example_model(args=TWO_BLOCKS)
    context = example_context(baseline, teacher=baseline)
    manager = toy_manager(SlowSubstitute())
    methods = [method for method in manager.methods() if method.name in ("distance", "quantize")]
    store = Store(tmp_path / "store")
    pipeline = Pipeline(baseline, "leaves", methods, context.transfer, "stage", 0, Compute(), store)
    recipe = recipe_of(baseline, manager, qat)
    candidate, dry = pipeline.run(recipe), pipeline.run(recipe, dry_run=True)
    assert candidate.slow == dry.slow == "distances have no kernel there"
    assert candidate.float_layers == ()
    described = [{name: (t.shape, t.dtype) for name, t in made.model.state_dict().items()} for made in (candidate, dry)]
    assert described[0] == described[1]
    assert candidate.operators == dry.operators
    counted = {(count.kind, count.weight_bits, count.activation_bits) for count in candidate.operators}
    assert ("add", 4, 4) in counted
    file = tmp_path / "model.onnx"
    export(candidate.model, file, (3, 32, 32), specs=methods[0].layers)
    artifact.save(candidate, Deployable(file, (3, 32, 32)), tmp_path / "7", {})
    loaded = artifact.load(tmp_path / "7", manager)
    images = torch.randn(16, 3, 32, 32)
    assert torch.equal(answers(loaded, images), answers(candidate.model, images))
    assert check_agreement(file, loaded, images).labels == 1
    if qat:  # stored as a stage of its own, with hardened weights
        again = pipeline.run(recipe)
        assert again.cache_hits > 0
        assert torch.equal(answers(again.model, images), answers(candidate.model, images))


def recipe_of(baseline: nn.Module, manager: Manager, qat: dict[str, Any]) -> Recipe:
    names = models.eligible_convolutions(baseline)[-Substitute.most :]
    bits = {group.name: GroupBits("quantize", 4, "quantize", 4) for group in models.groups(baseline, "stage")}

    class Defaults:
        def choose(self, parameter: Any) -> Any:
            return parameter.default

    params = manager.method("quantize").search_space(Space(Defaults()).scope("quantize"), baseline)
    return Recipe(
        values={}, transforms=[("distance", {"layers": names})], bits=bits, quantizers={"quantize": params}, qat=qat
    )


@pytest.mark.slow
def test_the_toy_conforms() -> None:
    check_transform(Substitute(), example_model(args=TWO_BLOCKS))


def test_sensitivity_is_probed_around_leaves() -> None:
    net = example_model(args=TWO_BLOCKS)
    context = example_context(net, teacher=net)
    method = Substitute()
    net = method.apply(net, {"layers": models.eligible_convolutions(net)[-2:]}, context)[0]
    manager = toy_manager(method)
    methods = {name: manager.method(name) for name in ("distance", "quantize")}
    quantizers = recipe_of(example_model(args=TWO_BLOCKS), manager, {}).quantizers
    setting = Setting(methods, quantizers, "model")
    widths = [Width("model", role, "quantize", 4) for role in ("weight", "activation")]
    table = measure(net, widths, setting, context)
    assert len(table) == 2
    assert all(row.loss >= 0 for row in table)


class Careless(Substitute):
    """must define a hardened leaf layer"""

    class Spec(DistanceSpec):
        def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
            layer = super().hardened(simulated, grid)
            offset = layer.offset
            del layer.offset
            layer.__dict__["offset"] = offset  # it is not a buffer any more
            return layer

    layers = (Spec(),)


class OffGrid(Substitute):
    """simulated and hardened leaf layers must be equal"""

    class Spec(DistanceSpec):
        def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
            return super().hardened(simulated, replace(grid, scale=20 * grid.scale))

    layers = (Spec(),)


class Uncounted(Substitute):
    """must say how many operations"""

    class Spec(DistanceSpec):
        def operator_counts(self, *_: Any) -> dict[str, int]:
            return {}

    layers = (Spec(),)


@pytest.mark.parametrize("method", [OffGrid, Uncounted, Careless])
def test_the_broken_rule_of_a_leaf_is_named(method: type[Substitute]) -> None:
    made = method()
    made.most = 1
    with pytest.raises(ContractViolation, match=str(method.__doc__)):
        check_transform(made, example_model(args=TWO_BLOCKS), {"layers": ["layer2.0.conv2"]})

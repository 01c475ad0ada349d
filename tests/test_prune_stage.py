"""The PRUNE stage.

Pruners, widths that only depend on the recipe, and stored results.
"""

from __future__ import annotations

import copy
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pruning_stage import WITHOUT, asked, kept, pruned
from torch import nn

from autocompress.compression.pipeline import Pipeline
from autocompress.compression.rebuilding import rebuild
from autocompress.compute import Compute
from autocompress.contract import Context, Coupling, Params, Pruner, coupling_scores, manager
from autocompress.errors import InvalidRecipe, UserError
from autocompress.job import Job, load_job
from autocompress.job.spaces import Limits, limits_of
from autocompress.models import input_size
from autocompress.recipes.choosers import Policy, Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.pruning import prunable
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store
from autocompress.testing import check_method, example_context, example_model
from autocompress.testing.rules import shapes
from autocompress_obs import Obs
from autocompress_quantize import Quantize
from autocompress_scop import Scop
from autocompress_simple_pruners import BatchNormScale, Magnitude, Random

IMAGE = (3, 32, 32)


# --- pruners --------------------------------------------------------------------------------------


def test_pruners_by_weights() -> None:
    model = example_model()
    conv, norm = model.get_submodule("layer1.0.conv1"), model.get_submodule("layer1.0.bn1")
    nn.init.uniform_(norm.weight, -2, 2)
    coupling = next(c for c in prunable(model, "inner") if c.name == "layer1.0.conv1")
    context = replace(example_context(model), model=model)
    by_norm = conv.weight.detach().abs().sum((1, 2, 3)).argsort()
    assert list(Magnitude().order(coupling, {}, context)) == by_norm.tolist()
    assert list(BatchNormScale().order(coupling, {}, context)) == norm.weight.detach().abs().argsort().tolist()
    first, again, other = (Random().order(coupling, {}, replace(context, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_pruner_in_the_docs_conforms() -> None:
    text = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text()
    (block,) = [part for part in re.split(r"\n(?=\S)", text) if "class FilterNorm(Pruner):" in part]
    found: dict[str, Any] = {"Pruner": Pruner, "coupling_scores": coupling_scores}
    exec(textwrap.dedent(block.partition("\n\n")[2]), found)
    check_method(found["FilterNorm"]())


class Wrong(Pruner):
    """Returns the order that it was made with."""

    name, version, reference = "wrong", "1", "none"

    def __init__(self, orders: Mapping[str, Sequence[int]] | None = None) -> None:
        self.given = orders

    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        return list(range(coupling.channels - 1))

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        return super().orders(couplings, params, context) if self.given is None else dict(self.given)


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        (None, "gives a wrong order for the channels of {first}: {first}: an order must be a permutation of 0.."),
        ({}, "gives no order for the channels of {first}"),
        (
            {"{first}": [0] * 16},
            "gives a wrong order for the channels of {first}: {first}: an order must be a permutation",
        ),
        ({"{first}": ["a"] * 16}, "gives a wrong order for the channels of {first}: invalid literal"),
        ({"{first}": None}, "gives a wrong order for the channels of {first}: 'NoneType' object is not iterable"),
    ],
)
def test_a_wrong_order_names_pruner_and_coupling(orders: Any, told: str) -> None:
    model = example_model()
    first = prunable(model, "inner")[0].name
    given = None if orders is None else {name.format(first=first): order for name, order in orders.items()}
    with pytest.raises(InvalidRecipe) as caught:
        pruned(model, Wrong(given), example_context(model, teacher=model))
    assert str(caught.value).startswith(f"the pruner 'wrong' {told.format(first=first)}")


# --- widths ---------------------------------------------------------------------------------------


def pipeline_of(model: nn.Module, folder: Path, pruners: Sequence[Pruner] | None = None) -> Pipeline:
    chosen = [Obs(), Scop(), Magnitude()] if pruners is None else list(pruners)
    context = example_context(model, teacher=model)
    return Pipeline(model, "example", chosen, context.transfer, "stage", 0, Compute(), Store(folder))


def recipe_of(model: nn.Module, pruner: Pruner, keep: Any = 0.5, repair: Params = WITHOUT, **limits: Any) -> Recipe:
    return Recipe(values={}, prune=asked(model, pruner, keep, **limits), repair=repair)


@pytest.mark.parametrize("architecture", ["test_resnet", pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["inner", "group"])
def test_the_recipe_alone_decides_the_structure(architecture: str, mode: str, tmp_path: Path) -> None:
    """Any pruner, dry or with data, refitted or not.

    Shapes are equal, and counts are those of the recipe. The second network has gates, so its
    repair is sequential.
    """
    model = example_model(architecture)
    pipeline = pipeline_of(model, tmp_path)
    found = []
    for pruner in (Obs(), Scop(), Magnitude()):
        for repair in (WITHOUT, {"fit": "auto", "images": 32}):
            recipe = recipe_of(model, pruner, 0.375, repair, mode=mode)
            dry, real = pipeline.run(recipe, dry_run=True), pipeline.run(recipe)
            assert shapes(dry.model) == shapes(real.model)
            assert (dry.params, dry.macs) == (real.params, real.macs)
            assert [(o.layer, o.kind, o.operations) for o in dry.operators] == [
                (o.layer, o.kind, o.operations) for o in real.operators
            ]
            steps = real.plan["transforms"]
            offered = {coupling.name: coupling for coupling in prunable(model, mode)}
            counted = {name: len(keep) for name, keep in kept(steps).items()}
            assert counted == {name: sum(coupling.kept(0.625)) for name, coupling in offered.items()}
            rebuilt = rebuild(model, steps, {})
            rebuilt.load_state_dict(real.model.state_dict())
            found.append((shapes(real.model), repair is WITHOUT))
    without = [own for own, plain in found if plain]
    repaired = [own for own, plain in found if not plain]
    assert all(own == without[0] for own in without)
    assert all(own == repaired[0] for own in repaired)


def test_shares_apply_to_the_couplings_that_the_recipe_names(tmp_path: Path) -> None:
    model = example_model()
    names = [coupling.name for coupling in prunable(model, "inner")]
    recipe = recipe_of(model, Magnitude(), {names[0]: 0.25, names[-1]: 0.75})
    keep = kept(pipeline_of(model, tmp_path).run(recipe).plan["transforms"])
    width = {coupling.name: coupling.channels for coupling in prunable(model, "inner")}
    assert {name: len(channels) / width[name] for name, channels in keep.items()} == {names[0]: 0.25, names[-1]: 0.75}


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_widths_are_multiples_of_the_device_multiple(multiple: int) -> None:
    model = example_model()
    _, steps = pruned(model, Magnitude(), example_context(model, teacher=model), 0.4375, multiple=multiple)
    assert kept(steps)
    assert all(len(keep) % multiple == 0 for keep in kept(steps).values())


def test_masked_equals_sliced_without_a_refit() -> None:
    """The stage removes exactly the channels of its plan.

    With these channels set to zero, the network gives the same outputs.
    """
    from autocompress.channels.removal import masked

    model = example_model()
    context = example_context(model, teacher=model)
    assert context.transfer is not None
    frozen = replace(context, transfer=replace(context.transfer, demands=frozenset({"freeze_batch_norm"})))
    small, steps = pruned(model, Magnitude(), frozen, mode="group")
    images = torch.randn(8, *IMAGE)
    expected = masked(model, kept(steps), input_size(model), "group")
    with torch.no_grad():
        torch.testing.assert_close(small(images), expected(images), rtol=1e-4, atol=1e-4)


# --- what is kept ---------------------------------------------------------------------------------


class Counting(Obs):
    """Counts its calls."""

    calls: ClassVar[list[int]] = []

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        self.calls.append(len(couplings))
        return super().orders(couplings, params, context)


def test_orders_and_moments_of_the_baseline_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used for all widths, and by another pipeline with the same store."""
    from autocompress.compression import repair

    gathered: list[int] = []
    original = repair.gather

    def watch(network: nn.Module, layers: Sequence[str], *others: Any, **named: Any) -> Any:
        gathered.append(len(layers))
        return original(network, layers, *others, **named)

    monkeypatch.setattr(repair, "gather", watch)
    Counting.calls.clear()
    model, settings = example_model(), {"fit": "one-shot", "images": 32}
    found = []
    for _ in range(2):
        pipeline = pipeline_of(model, tmp_path, [Counting()])
        for share in (0.25, 0.75, {"layer4.0.conv1": 0.5}):
            found.append(pipeline.run(recipe_of(model, Counting(), share, settings)))
    assert Counting.calls == [len(prunable(model, "inner"))]
    assert len(gathered) == 1
    first, second = ({n: t.clone() for n, t in found[i].model.state_dict().items()} for i in (0, 3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    narrow, wide = (kept(found[i].plan["transforms"]) for i in (0, 1))
    assert all(set(narrow[name]) <= set(wide[name]) for name in narrow)


def test_other_images_or_another_seed_give_other_orders(tmp_path: Path) -> None:
    model = example_model()
    first = pipeline_of(model, tmp_path, [Random()])
    other = replace(first, seed=1)
    keeps = [kept(own.run(recipe_of(model, Random())).plan["transforms"]) for own in (first, other)]
    assert keeps[0] != keeps[1]


# --- in a job -------------------------------------------------------------------------------------


def space_of(job: Job, model: nn.Module, methods: Sequence[str] = ("scop", "magnitude", "quantize")) -> JobSpace:
    limits: Limits = limits_of(job)
    chosen = [method for method in manager().methods() if method.name in methods]
    space = JobSpace(model, chosen, limits, "stage", 2)
    space.check_limits(chosen)
    return space


def job_with(**space: Any) -> Job:
    return load_job(model="test_resnet", data="digits", space=space, name="prune")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


def test_a_job_fixes_and_narrows_widths(model: nn.Module) -> None:
    keep = {"layer1": 0.75, "layer2": [0.25, 0.5], "layer3": {"low": 0.25, "high": 0.5}}
    space = space_of(job_with(prune={"method": "scop", "keep": keep}), model)
    parameters = space.parameters()
    shares = {name: parameter for name, parameter in parameters.items() if name.startswith("prune.keep.")}
    assert shares["prune.keep.layer1.0.conv1"].choices == (0.75,)
    assert shares["prune.keep.layer2.0.conv1"].choices == (0.25, 0.5)
    narrowed = shares["prune.keep.layer3.0.conv1"]
    assert (narrowed.low, narrowed.high, narrowed.step) == (0.25, 0.5, 1 / 16)
    assert (shares["prune.keep.layer4.0.conv1"].low, shares["prune.keep.layer4.0.conv1"].high) == (1 / 16, 1.0)
    recipe = space.compose(Policy({"prune": "cheapest"}))
    assert recipe.prune is not None
    assert {name: recipe.prune.keep[f"{name}.0.conv1"] for name in ("layer1", "layer2", "layer3", "layer4")} == {
        "layer1": 0.75, "layer2": 0.25, "layer3": 0.25, "layer4": 1 / 16,
    }  # fmt: skip


def test_one_share_applies_to_all_couplings(model: nn.Module) -> None:
    recipe = space_of(job_with(prune={"keep": 0.5, "mode": "group"}), model).compose(Policy({"prune": "default"}))
    assert recipe.prune is not None
    assert set(recipe.prune.keep.values()) == {0.5}
    assert {coupling.name for coupling in prunable(model, "group")} == set(recipe.prune.keep)


@pytest.mark.parametrize("keep", [0.0, 1.5, -0.5, "half", True, {"low": 0.5, "high": 1.2}])
def test_a_share_out_of_range_is_refused(keep: Any, model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"prune\.keep.*cannot be .*: it takes 0.0625 .. 1.0"):
        space_of(job_with(prune={"method": "scop", "keep": keep}), model)


def test_a_replayed_share_outside_of_its_range(model: nn.Module) -> None:
    space = space_of(job_with(), model)
    with pytest.raises(InvalidRecipe, match=r"prune\.keep\.layer1\.0\.conv1 cannot be 0\.0"):
        space.compose(Replay({"prune.keep.layer1.0.conv1": 0.0}))


@pytest.mark.parametrize(
    ("old", "told", "instead"),
    [
        ({"rate": 0.3}, "scop.rate", "prune: {keep: 0.7}"),
        ({"rate": {"layer1": 0.3}}, "scop.rate", "prune: {keep: 0.7}"),
        ({"rate": {"low": 0.1, "high": 0.5}}, "scop.rate", "prune: {keep: 0.7}"),
        ({"ranking": "global"}, "scop.ranking", "prune.keep"),
        ({"mode": "scatter"}, "scop.mode", "prune: {mode: inner}"),
        ({"multiple": 8}, "scop.multiple", "prune: {multiple: 8}"),
        ({"criterion": "magnitude"}, "scop.criterion", "prune: {method: magnitude}"),
    ],
)
def test_a_key_of_an_earlier_version_names_its_successor(
    old: dict[str, Any], told: str, instead: str, model: nn.Module
) -> None:
    with pytest.raises(UserError, match=f"{told}.* is not a parameter any more") as caught:
        space_of(job_with(scop=old), model)
    assert instead in caught.value.hint


def test_pruners_that_are_not_searched_are_used_if_a_job_names_them(model: nn.Module) -> None:
    plain = space_of(job_with(), model)
    assert plain.parameters()["prune.method"].choices == ("none", "scop")
    assert not any("magnitude" in label for label, _ in plain.starting_points())
    named = space_of(job_with(prune={"method": ["magnitude", "scop"]}), model)
    assert named.parameters()["prune.method"].choices == ("magnitude", "scop")
    points = dict(named.starting_points())
    assert points["magnitude alone"]["prune.method"] == "magnitude"
    assert points["scop alone"]["prune.method"] == "scop"


def test_the_uncompressed_model_is_in_every_space(model: nn.Module) -> None:
    for limits in ({}, {"prune": {"method": "scop"}}):
        space = space_of(job_with(**limits), model)
        label, values = space.starting_points()[0]
        assert label == "uncompressed"
        recipe = space.compose(Replay(values))
        assert recipe.prune is None
        assert not recipe.repair


def test_widths_are_structural_and_orders_are_not(model: nn.Module) -> None:
    space = space_of(job_with(), model, ("obs", "scop", "quantize"))
    values = space.policy({"prune": "default"}, pruner="obs")
    other = space.policy({"prune": "default"}, pruner="scop")
    assert values is not None
    assert other is not None
    keys = [space.compose(Replay(own)).structural_key for own in (values, other)]
    assert keys[0] == keys[1]
    narrower = space.compose(Replay({**values, "prune.keep.layer1.0.conv1": 0.5}))
    assert narrower.structural_key != keys[0]


def test_a_plan_needs_no_pruner(model: nn.Module, tmp_path: Path) -> None:
    """A saved network can be rebuilt without the plugin."""
    real = pipeline_of(model, tmp_path).run(recipe_of(model, Obs(), 0.5, {"fit": "one-shot", "images": 32}))
    again = rebuild(model, copy.deepcopy(real.plan["transforms"]), {"quantize": Quantize()})
    again.load_state_dict(real.model.state_dict())
    images = torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert torch.equal(again(images), real.model(images))

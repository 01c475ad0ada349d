"""The pipeline.

A recipe gives a candidate, recipes share stages, and a dry run has the deployed structure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.contract import Context, Coupling, Params, Plan, Pruner, Space, Stage, Transform
from autocompress.export import operator_histogram
from autocompress.job import Limits
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store

JOINT = {"ghost": "default", "recover": "default", "bits": "default", "quantize": "default"}


def test_the_uncompressed_recipe_is_the_baseline(opened: OpenedJob) -> None:
    candidate = opened.candidate(opened.compose(Policy({})))
    image = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(candidate.model(image), opened.model(image))
    assert candidate.params == opened.baseline.params
    assert candidate.macs == opened.baseline.macs
    assert candidate.plan["transforms"] == []


@pytest.mark.slow
@pytest.mark.parametrize("rules", [JOINT, {"bits": "default"}], ids=["joint", "8-bit"])
def test_a_dry_run_has_the_deployed_operators(opened: OpenedJob, rules: dict[str, str], tmp_path: Path) -> None:
    recipe = opened.compose(Policy(rules))
    dry = opened.candidate(recipe, dry_run=True)
    real = opened.candidate(recipe)
    shapes = [{name: tuple(value.shape) for name, value in c.model.state_dict().items()} for c in (dry, real)]
    assert shapes[0] == shapes[1]
    opened.export(dry, tmp_path / "dry.onnx")
    opened.export(real, tmp_path / "real.onnx")
    assert operator_histogram(tmp_path / "dry.onnx") == operator_histogram(tmp_path / "real.onnx")
    assert (dry.params, dry.macs) == (real.params, real.macs)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ghost modules are initialised on few images, for tests with a store of their own."""
    monkeypatch.setattr("autocompress_ghost.method.CALIBRATION_IMAGES", 64)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_recipes_with_other_bits_share_one_recovered_model(opened: OpenedJob, tmp_path: Path) -> None:
    pipeline = replace(opened.pipeline, store=Store(tmp_path))
    float_recipe = opened.compose(Policy({"ghost": "cheapest", "recover": "default"}))
    int8_recipe = opened.compose(Policy({"ghost": "cheapest", "recover": "default", "bits": "default"}))
    first = pipeline.run(float_recipe)
    assert first.cache_hits == 0
    second = pipeline.run(int8_recipe)
    assert second.cache_hits == 1
    assert second.cache_misses == 0
    assert "recover" not in second.seconds, "the second recipe must not train again"
    again = pipeline.run(float_recipe)
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(first.model(image), again.model(image))


def test_the_key_of_a_stage_contains_all_inputs(opened: OpenedJob) -> None:
    recipe = opened.compose(Policy(JOINT))
    keys = opened.pipeline.keys.of_stages(recipe)
    other = replace(opened.pipeline, seed=opened.pipeline.seed + 1)
    assert set(keys).isdisjoint(other.keys.of_stages(recipe))
    other = replace(opened.pipeline, baseline_key="another")
    assert set(keys).isdisjoint(other.keys.of_stages(recipe))


def test_file_and_torch_model_give_the_same_labels(opened: OpenedJob, tmp_path: Path) -> None:
    candidate = opened.candidate(opened.compose(Policy({"bits": "default"})))
    deployable = opened.export(candidate, tmp_path / "model.onnx")
    images = torch.cat([images for images, _ in opened.splits.val.loader(128)])
    with torch.no_grad():
        expected = candidate.model(images).argmax(1).numpy()
    found = opened.scorer.predict(deployable, images.numpy()).argmax(1)
    assert np.mean(expected == found) >= 0.995


def test_the_baseline_is_never_changed(opened: OpenedJob) -> None:
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    opened.candidate(opened.compose(Policy(JOINT)))
    after = opened.model.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not opened.model.training


class Learns(Transform):
    """Learns something before the first trial, and changes nothing."""

    name = "learns"
    version = "1"
    reference = "test"
    stage = Stage.SUBSTITUTE

    def __init__(self, learned: Callable[[], None]) -> None:
        self.learned = learned

    def search_space(self, space: Space, model: nn.Module) -> Params:
        del space, model
        return {}

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        del baseline, context
        self.learned()
        return {"learned": torch.ones(1)}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        del params, context
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        del plan
        return model


def test_a_dry_run_names_its_estimates(opened: OpenedJob, tmp_path: Path) -> None:
    class Decides(Learns):
        def structure_needs_state(self, params: Params) -> bool:
            return bool(params["scored"])

    pipeline = replace(opened.pipeline, methods=[Decides(lambda: None)], store=Store(tmp_path))
    scored, plain = (Recipe(values={}, transforms=[("learns", {"scored": scored})]) for scored in (True, False))
    assert pipeline.run(scored, dry_run=True).estimated == ("learns",)
    assert pipeline.run(plain, dry_run=True).estimated == ()
    assert pipeline.prepare() == {}
    assert pipeline.run(scored, dry_run=True).estimated == (), "the prepared state is stored"


def test_two_workers_do_not_both_prepare_a_state(opened: OpenedJob, tmp_path: Path) -> None:
    waited, learned = threading.Event(), []

    def worker(learns: Callable[[], None], pause: Callable[[], None] | None = None) -> None:
        pipeline = replace(opened.pipeline, methods=[Learns(learns)], store=Store(tmp_path))
        assert pipeline.prepare(pause=pause) == {}

    other = threading.Thread(target=worker, args=(lambda: learned.append("second"), waited.set))

    def first() -> None:
        learned.append("first")
        other.start()
        waited.wait(60)  # the other worker is at the same state now

    worker(first)
    other.join(60)
    assert waited.is_set(), "the second waits for the first, and calls its pause meanwhile"
    assert learned == ["first"], "the second worker reads the state of the first"


class Shuffled(Pruner):
    """Orders channels at random.

    The engine does not know ``draw``: it is neither a parameter nor in the version.
    """

    name = "shuffled"
    version = "1"
    reference = "test"

    def __init__(self, draw: int) -> None:
        self.draw = draw
        self.asked = 0

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {}

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        self.asked += 1
        generator = torch.Generator().manual_seed(self.draw)
        return torch.randperm(coupling.channels, generator=generator).tolist()


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("behind", [(), ("ghost",)], ids=["baseline", "behind a transform"])
def test_pruned_results_are_stored_by_their_order(opened: OpenedJob, behind: tuple[str, ...], tmp_path: Path) -> None:
    """The digest of the order is part of the key, so a result of another order is never used."""
    rules = {**dict.fromkeys(behind, "default"), "prune": "default"}
    keys = {}
    for draw, folder in ((0, "one"), (0, "again"), (1, "other")):
        pruner = Shuffled(draw)
        methods = [method for method in opened.methods if method.name in behind] + [pruner]
        space = JobSpace(opened.model, methods, Limits({"repair.fit": "none"}), "model", 0)
        recipe = space.compose(Policy(rules))
        pipeline = replace(opened.pipeline, methods=methods, store=Store(tmp_path / folder))
        assert len(pipeline.keys.of_stages(recipe)) == len(behind), "the order was not asked for yet"
        pipeline.run(recipe)
        asked = pruner.asked
        keys[folder] = pipeline.keys.of_stages(recipe)
        fresh = replace(pipeline)  # another process
        assert fresh.keys.of_stages(recipe) == keys[folder]
        assert pruner.asked == asked, "the order is stored"
    assert keys["one"] == keys["again"]
    assert keys["one"][:-1] == keys["other"][:-1]
    assert keys["one"][-1] != keys["other"][-1]

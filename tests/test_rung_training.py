"""The training of rungs.

Each continues from the stored network of the rung below, or makes that network again.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import same
from hypothesis import given
from hypothesis import strategies as st

from autocompress.compression import answers
from autocompress.compression.answers import with_logits
from autocompress.compression.artifact import load
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.devices.lock import MachineLock
from autocompress.opened.job import OpenedJob
from autocompress.recipes import rungs
from autocompress.recipes.choosers import Fixed, Policy
from autocompress.recipes.recipe import Recipe
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.store import Store
from autocompress.training import checkpoint, logits


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "LEAST_STEPS", {1: 3, 2: 5})
    monkeypatch.setattr(rungs, "MOST_IMAGES", 165)


def cut(opened: OpenedJob, **values: Any) -> Recipe:
    """A recipe with a quarter of the channels of every coupling, no training, and full bits."""
    keeps = {name: 0.25 for name in opened.parameters() if name.startswith("prune.keep.")}
    fixed = {**keeps, "recover.epochs": 0, **values}
    return opened.compose(Fixed(fixed, Policy({"prune": "default"})))


def pipeline_of(opened: OpenedJob, folder: Path) -> Pipeline:
    return replace(opened.pipeline, store=Store(folder))


def at_rung(opened: OpenedJob, rung: int) -> Recipe:
    recipe = opened.at_rung(cut(opened), rung)
    assert recipe is not None
    return recipe


# --- how much a rung trains -----------------------------------------------------------------------


@given(rung=st.sampled_from([1, 2]), images=st.integers(1, 2_000_000), epochs=st.floats(0.1, 20))
def test_a_rung_has_a_minimum_of_steps_on_small_sets_and_a_maximum_on_large_ones(
    rung: int, images: int, epochs: float
) -> None:
    batch = min(128, images)
    steps = rungs.steps_of(rung, images, batch, epochs)
    wanted = 0.25 * images if rung == 1 else epochs * images
    assert 1 <= steps <= max(1, 200_000 // batch)
    if steps * batch > wanted + batch:  # if more is asked, then no more than a network needs
        assert steps == rungs.LEAST_STEPS[rung]
    elif steps < 200_000 // batch:
        assert steps * batch >= wanted


def test_examples_of_the_amount_of_training() -> None:
    assert rungs.steps_of(1, 2_000, 62, 2) == 100
    assert rungs.steps_of(2, 2_000, 62, 2) == 400
    assert rungs.steps_of(1, 50_000, 128, 2) == 100
    assert rungs.steps_of(2, 50_000, 128, 2) == 782
    assert rungs.steps_of(1, 1_281_167, 128, 2) == rungs.steps_of(2, 1_281_167, 128, 2) == 1562


def test_which_recipes_can_be_promoted(opened: OpenedJob) -> None:
    assert opened.at_rung(cut(opened), 1) is not None
    assert opened.at_rung(opened.compose(Policy({})), 1) is None, "nothing was removed"
    assert opened.at_rung(cut(opened, **{"recover.epochs": 1}), 1) is None, "it trains already"
    assert not rungs.can_climb(cut(opened), 0), "the job trains nothing"


def test_a_rung_does_not_change_values_and_structure(opened: OpenedJob) -> None:
    recipe = cut(opened)
    higher = at_rung(opened, 2)
    assert (higher.key, higher.structural_key) == (recipe.key, recipe.structural_key)
    assert higher.trains
    assert [params["augment"] for params in higher.rungs] == [False, True]
    assert all(params["lr"] <= 5e-4 for params in higher.rungs)
    assert at_rung(opened, 1).rungs == higher.rungs[:1]
    assert opened.at_rung(recipe, 0) == recipe


# --- the network of the rung below ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_rung_begins_with_the_stored_network_below_or_makes_it_again(opened: OpenedJob, tmp_path: Path) -> None:
    pipeline = pipeline_of(opened, tmp_path)
    repaired = pipeline.run(cut(opened))
    first = pipeline.run(at_rung(opened, 1))
    assert set(first.seconds) & {"rung 1", "rung 2"} == {"rung 1"}
    second = pipeline.run(at_rung(opened, 2))
    assert set(second.seconds) & {"rung 1", "rung 2"} == {"rung 2"}, "rung 1 is not trained again"
    assert not same(repaired.model, first.model)
    assert not same(first.model, second.model)
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    again = pipeline.run(at_rung(opened, 2))
    assert {"rung 1", "rung 2"} <= set(again.seconds)
    assert same(again.model, second.model)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_rung_that_was_killed_continues(opened: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))  # other tests leave checkpoints in theirs
    checkpoints = tmp_path / "cache" / "checkpoints"
    expected = pipeline_of(opened, tmp_path / "a").run(at_rung(opened, 2)).model
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    steps: list[str] = []

    def count(_done: float, text: str = "") -> None:
        steps.extend([text] if text.startswith("epoch") else [])

    def die() -> None:
        if len(steps) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline_of(opened, tmp_path / "b").run(at_rung(opened, 2), progress=count, pause=die)
    assert list(checkpoints.iterdir())
    steps.append("killed")
    found = pipeline_of(opened, tmp_path / "b").run(at_rung(opened, 2), progress=count)
    assert same(found.model, expected)
    assert len(steps) == 5 + 5 + 1, "five steps of each rung, each made once"
    assert not list(checkpoints.iterdir()), "a stored result needs no checkpoint"


# --- the baseline's answers -----------------------------------------------------------------------


def test_the_baseline_is_run_once_for_each_image(
    opened: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store(tmp_path), []
    monkeypatch.setattr(answers, "logits", lambda *a, **k: calls.append(1) or logits(*a, **k))
    transfer = opened.pipeline.transfer
    assert transfer is not None

    def asked(images: int, classes: int = 10) -> Any:
        del classes
        compute = Compute()
        return with_logits(opened.model, "baseline", transfer, images, store, compute, seed=0)

    made = asked(100)
    assert made.soft_targets.shape == (100, 10)
    assert len(made.train) == 100
    expected = logits(copy.deepcopy(opened.model), made.train)
    assert torch.equal(made.soft_targets, expected)
    assert torch.equal(asked(100).soft_targets, expected)
    assert len(calls) == 1
    assert len(asked(10**9).train) == len(transfer.train)
    monkeypatch.setattr(answers, "MOST_BYTES", 100)
    assert asked(100) is transfer, "too many to keep"
    own = replace(transfer, soft_targets=torch.zeros(len(transfer.train), 10))
    assert with_logits(opened.model, "baseline", own, 10, store, Compute(), seed=0) is own


# --- a trial that climbs --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_promoted_trial_has_the_artifact_of_its_last_rung_that_gained(opened: OpenedJob, tmp_path: Path) -> None:
    measurer = Measurer.of(opened.job, opened.device)
    baseline = baseline_row(opened, measurer)
    lock = MachineLock(tmp_path / "locks")

    def trial() -> Trial:
        return Trial(opened, measurer, lock, 4, tmp_path, baseline)

    below = trial().run(cut(opened).values)
    assert below["status"] == "complete"
    assert (below["rung"], below["climbs"], below["accuracy_rung0"]) == (0, True, below["accuracy"])
    row = trial().climb({**below, "accuracy": 0.0}, 1)
    assert (row["rung"], row["artifact"], row["is_final"]) == (1, "artifacts/4-rung1", False)
    assert row["latency_ratio"] == below["latency_ratio"], "one measurement serves all rungs"
    first, second = (load(tmp_path / found["artifact"]) for found in (below, row))
    assert not same(first, second)
    assert json.loads((tmp_path / row["artifact"] / "metrics.json").read_text())["rung"] == 1
    worse = trial().climb({**row, "accuracy": 101.0}, 2)
    assert (worse["rung"], worse["artifact"]) == (1, "artifacts/4-rung1")
    assert "rung 2 gave no gain" in worse["reason"]
    assert not (tmp_path / "artifacts/4-rung2").exists()


@pytest.mark.usefixtures("few_steps")
def test_a_training_that_diverges_leaves_the_model_of_the_rung_below(
    opened: OpenedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurer = Measurer.of(opened.job, opened.device)
    trial = Trial(opened, measurer, MachineLock(tmp_path / "locks"), 4, tmp_path, baseline_row(opened, measurer))
    below = trial.run(cut(opened).values)
    monkeypatch.setattr(rungs, "AFTER_REPAIR", 1e30)
    row = trial.climb(below, 1)
    assert (row["status"], row["rung"], row["accuracy"]) == ("complete", 0, below["accuracy"])
    assert "rung 1 gave no gain (train: the training loss is " in row["reason"]

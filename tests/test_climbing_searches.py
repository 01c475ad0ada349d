"""Searches with promotions: worker processes, failed trainings, and searches that are killed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from climbing_toy import BASELINE, open_climbing_toy
from toy_search import offer_toy_device, toy_job

from autocompress.job import Job
from autocompress.results import SearchResult, read
from autocompress.searching import gates, run
from autocompress.searching.promotion.choosing import ETA
from autocompress.searching.study import Study

# --- searches -------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is killed, at any place."""


@pytest.fixture
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial takes a second for each of its steps: only so much time may be spent on trainings."""
    seconds = itertools.count()
    monkeypatch.setattr(gates, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))


def climbing_job(folder: Path, **settings: Any) -> Job:
    offer_toy_device()
    given = {"budget": {"trials": 24, "epochs": 1}, "sampler": "random", "seed": 3}
    return toy_job(folder, **given | settings)


def search_or_resume(job: Job) -> SearchResult:
    is_begun = (job.folder / "study.journal").exists()
    return run.resume(job.folder, opener=open_climbing_toy) if is_begun else run.search(job, opener=open_climbing_toy)


@pytest.mark.slow
@pytest.mark.usefixtures("search_here", "_counted")
def test_a_search_promotes_recipes_after_its_first_pass(tmp_path: Path) -> None:
    result = run.search(climbing_job(tmp_path), opener=open_climbing_toy)
    trials = result.trials
    assert len(trials) == 24, "a recipe has one row on any rung"
    high = trials[trials["rung"] > 0]
    assert 1 <= len(high) <= 24 // ETA + 1
    assert (high["accuracy"] > high["accuracy_rung0"]).all()
    assert trials[trials["recipe"].map(lambda r: r.get("toy.width") == 1.0)]["accuracy_rung0"].isna().all()
    study = Study(result.folder, climbing_job(tmp_path), BASELINE)
    for number in high["trial"]:
        told = study.told_row(int(number))
        assert told is not None
        assert told["rung"] == 0, "the sampler is only told rung 0"
    for _, row in result.models[result.models["rung"] > 0].iterrows():
        assert (result.folder / row["artifact"] / "model.onnx").exists()
        assert row["artifact"] == f"artifacts/{row['trial']}-rung{row['rung']}"
    off = run.search(climbing_job(tmp_path, name="off", search={"rungs": False}), opener=open_climbing_toy)
    assert (off.trials["rung"] == 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_worker_processes_train_promoted_recipes(tmp_path: Path) -> None:
    result = run.search(climbing_job(tmp_path, workers=2), opener=open_climbing_toy)
    assert len(result.trials) == 24
    assert result.trials["trial"].is_unique
    high = result.trials[result.trials["rung"] > 0]
    assert len(high)
    assert (high["accuracy"] > high["accuracy_rung0"]).all()
    assert result.summary["rungs"]["1"]["gained"] >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("search_here", "_counted")
def test_a_training_that_fails_leaves_the_model_of_the_rung_below(tmp_path: Path) -> None:
    job = climbing_job(tmp_path, space={"toy": {"fault": "nan"}})
    result = run.search(job, opener=open_climbing_toy)
    said = result.trials[result.trials["reason"].str.contains("gave no gain")]
    assert len(said)
    assert (said["rung"] == 0).all()
    assert said["reason"].str.contains("the loss is not a number").all()
    assert set(said["status"]) == {"complete"}


@pytest.mark.slow
@pytest.mark.usefixtures("search_here", "_counted")
def test_a_search_that_is_killed_between_any_two_steps_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is killed before and after each write to the study."""
    whole = run.search(climbing_job(tmp_path / "whole"), opener=open_climbing_toy)
    job = climbing_job(tmp_path)
    for name in ("promote", "amend", "keep"):
        for is_before in (True, False):
            own = getattr(Study, name)

            def dying(study: Study, *a: Any, own: Any = own, is_before: bool = is_before) -> None:
                if not is_before:
                    own(study, *a)
                raise Killed

            monkeypatch.setattr(Study, name, dying)
            with pytest.raises(Killed):
                search_or_resume(job)
            monkeypatch.setattr(Study, name, own)
    result = run.resume(job.folder, opener=open_climbing_toy)
    assert len(result.trials) == 24
    assert result.trials["trial"].is_unique
    assert (result.trials["rung"] > 0).sum() >= 2
    assert set(result.trials["status"]) == set(whole.trials["status"])
    lines = (job.folder / "toy" / "runs.txt").read_text().splitlines()
    assert len(lines) >= 24 + 2
    assert json.loads(lines[0])
    again = run.resume(job.folder, opener=open_climbing_toy)
    assert len(read(job.folder).trials) == len(again.trials) == 24

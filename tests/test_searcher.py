"""The searcher: how many recipes it hands to Ray, until when, and what becomes of trials whose worker is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from toy_bench import ToyBench, open_toy, toy_job

from autocompress.job import Job
from autocompress.searching.searcher import Allowance, StudySearcher
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0, "size_bytes": 4000, "params": 1000, "macs": 5000, "energy_uj": 160000.0}
FINISHED = "FINISHED"


class Desk:
    """A searcher with its study, as the driver has them."""

    def __init__(self, job: Job, trials: int = 5, deadline: float | None = None) -> None:
        job.folder.mkdir(exist_ok=True)
        self.study = Study(job.folder, job, BASELINE)
        self.bench: ToyBench = open_toy(job)
        self.rows: list[dict[str, Any]] = []
        self.searcher = StudySearcher(
            self.study, self.bench.compose, Allowance(trials, deadline, trial_seconds=60.0), self.rows.append
        )

    def work(self, config: dict[str, Any], seconds: float = 1.0) -> None:
        """What a worker does: the row is in the study before Ray hears of it."""
        done = {
            "trial": config["trial"],
            "status": "complete",
            "seconds": seconds,
            "recipe": json.loads(config["recipe"]),
        }
        self.study.tell(config["trial"], done | {"accuracy": 88.0, "accuracy_drop": 2.0, "latency_ratio": 0.5})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return toy_job(tmp_path, sampler="random")


def test_it_hands_out_what_the_budget_allows_and_no_more(job: Job) -> None:
    desk, handed = Desk(job, trials=5), 0
    while (config := desk.searcher.suggest(f"ray{handed}")) != FINISHED:
        assert isinstance(config, dict)
        desk.work(config)
        desk.searcher.on_trial_complete(f"ray{handed}", {"done": True})
        handed += 1
    assert len(desk.rows) == len(desk.study.rows()) == 5, "draws that cannot be built are trials too"
    assert desk.searcher.why_ended == "all trials are spent"


def test_recipes_are_asked_ahead_of_results(job: Job) -> None:
    desk = Desk(job)
    configs = [desk.searcher.suggest(f"ray{index}") for index in range(3)]
    assert all(isinstance(config, dict) for config in configs)
    assert desk.study.rows() == desk.rows


def test_nothing_is_begun_that_would_hardly_end_in_time(job: Job) -> None:
    desk = Desk(job, deadline=time.time() + 30)
    config = desk.searcher.suggest("ray0")
    assert isinstance(config, dict)
    desk.work(config, seconds=31.0)
    desk.searcher.on_trial_complete("ray0", {"done": True})
    assert desk.searcher.suggest("ray1") == FINISHED
    assert desk.searcher.why_ended == "the time is up"


@pytest.mark.parametrize(
    ("started", "error", "reason"),
    [
        (False, "ImportError: no such thing", "the worker could not start: ImportError: no such thing"),
        (True, "the actor died", "the worker was lost"),
    ],
)
def test_a_lost_worker_is_one_failed_row(job: Job, started: bool, error: str, reason: str) -> None:
    desk = Desk(job)
    config = desk.searcher.suggest("ray0")
    assert isinstance(config, dict)
    if started:
        desk.study.start(config["trial"])
    desk.searcher.on_trial_complete("ray0", error=True)
    desk.searcher.lost("ray0", error)
    (row,) = desk.rows
    assert row["status"] == "failed"
    assert row["reason"].startswith(reason)
    assert row["recipe"] == json.loads(config["recipe"])


def test_a_worker_that_dies_after_its_last_word_costs_nothing(job: Job) -> None:
    desk = Desk(job)
    config = desk.searcher.suggest("ray0")
    assert isinstance(config, dict)
    desk.work(config)
    desk.searcher.on_trial_complete("ray0", error=True)
    desk.searcher.lost("ray0", "the actor died")
    assert [row["status"] for row in desk.rows] == ["complete"]


def test_an_interrupted_trial_has_no_row_and_is_tried_again(job: Job) -> None:
    desk = Desk(job)
    config = desk.searcher.suggest("ray0")
    assert isinstance(config, dict)
    desk.searcher.on_trial_complete("ray0", None)
    assert desk.rows == []
    assert desk.study.recover() == 1


def test_a_trial_is_not_charged_for_images_that_are_made(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, now = Desk(job), [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    reasons = {}
    for ray, steps in {
        "killed later": [(True, 300.0), (False, 20.0)],
        "hangs later": [(True, 300.0), (False, 61.0)],
        "in the middle": [(True, 300.0)],
    }.items():
        config = desk.searcher.suggest(ray)
        assert isinstance(config, dict)
        desk.study.start(config["trial"])
        now[0] += 10
        for is_held, seconds in steps:
            desk.study.hold(config["trial"], is_held)
            now[0] += seconds
        desk.searcher.on_trial_complete(ray, error=True)
        desk.searcher.lost(ray, "the actor died")
        reasons[ray] = (desk.rows[-1]["reason"].partition(":")[0], desk.rows[-1]["seconds"])
    assert reasons == {
        "killed later": ("the worker was lost", 30.0),
        "hangs later": ("time-out", 71.0),
        "in the middle": ("the worker was lost while images were made", 10.0),
    }

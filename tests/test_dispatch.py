"""The dispatcher: how many recipes workers get, until when, and recipes whose worker is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from toy_search import OpenedToy, open_toy, toy_job

from autocompress.job import Job
from autocompress.searching.asked import Asked
from autocompress.searching.dispatch import MOST_FAILED_STARTS, NODES_KNOWN_AFTER_S, Allowance, Dispatcher
from autocompress.searching.spool import Spool
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0, "size_bytes": 4000, "params": 1000, "macs": 5000, "energy_uj": 160000.0}


class Driver:
    """A dispatcher with its study, as in the driver."""

    def __init__(self, job: Job, trials: int = 5, deadline: float | None = None) -> None:
        job.folder.mkdir(exist_ok=True)
        self.study = Study(job.folder, job, BASELINE)
        self.spool = Spool(job.folder)
        self.opened: OpenedToy = open_toy(job)
        self.rows: list[dict[str, Any]] = []
        self.made: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.dispatcher = Dispatcher(
            self.study,
            self.opened.compose,
            Allowance(trials, deadline, trial_seconds=60.0),
            self.spool,
            self.rows.append,
            self.notes.append,
        )

    def hand_out(self, worker: str) -> Asked:
        asked = self.dispatcher.hand_out(worker)
        assert asked is not None
        return asked

    def work(self, asked: Asked, seconds: float = 1.0) -> None:
        """Does the work of a worker: its row is in the spool before the driver is told."""
        done = {"trial": asked.number, "status": "complete", "seconds": seconds, "recipe": asked.values}
        done |= {"accuracy": 88.0, "accuracy_drop": 2.0, "latency_ratio": 0.5}
        self.spool.write(asked.number, asked.attempt, done)
        self.made = done

    def finish(self, worker: str) -> None:
        """The worker sends the row that it made, or none."""
        row, self.made = self.made, None
        self.dispatcher.finished(worker, row)
        if row is not None:
            assert row["trial"] not in dict(self.spool.waiting())
            self.dispatcher.tell(row)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return toy_job(tmp_path, sampler="random")


def test_it_hands_out_as_many_recipes_as_the_budget_allows(job: Job) -> None:
    driver = Driver(job, trials=5)
    assert driver.dispatcher.work_left == 5
    while (asked := driver.dispatcher.hand_out("worker")) is not None:
        assert not driver.dispatcher.is_over
        driver.work(asked)
        driver.finish("worker")
    assert len(driver.rows) == len(driver.study.rows()) == 5, "draws that cannot be built are trials too"
    assert driver.dispatcher.is_over
    assert driver.dispatcher.why_ended == "all trials are spent"


def test_it_knows_which_recipes_are_running(job: Job) -> None:
    driver = Driver(job)
    assert driver.dispatcher.under_way == []
    asked = driver.hand_out("worker")
    assert driver.dispatcher.under_way == [{"trial": asked.number, "label": asked.label}]
    driver.work(asked)
    driver.finish("worker")
    assert driver.dispatcher.under_way == []


def test_no_recipe_begins_that_would_end_after_the_deadline(job: Job) -> None:
    driver = Driver(job, deadline=time.time() + 30)
    driver.work(driver.hand_out("worker"), seconds=31.0)
    driver.finish("worker")
    assert driver.dispatcher.hand_out("worker") is None
    assert driver.dispatcher.is_over
    assert driver.dispatcher.why_ended == "the time is up"


def test_a_recipe_with_a_lost_worker_is_tried_again_twice_before_others(job: Job) -> None:
    driver = Driver(job)
    other = driver.hand_out("other")
    first = driver.hand_out("worker 0")
    for attempt in range(2):
        driver.dispatcher.lost(f"worker {attempt}", "ActorDiedError: the worker process has died")
        assert driver.rows == []
        assert driver.hand_out(f"worker {attempt + 1}") == first
    assert driver.notes == [
        f"trial {first.number}: the worker was lost: it was killed, ran out of memory or crashed; "
        f"it is tried again ({attempt} of 2)"
        for attempt in (1, 2)
    ]
    driver.dispatcher.lost("worker 2", "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low")
    (row,) = driver.rows
    assert row["status"] == "failed"
    assert row["reason"] == "the worker was lost: Ray ended it because the machine ran out of memory (3 times)"
    assert row["recipe"] == first.values
    assert driver.hand_out("worker 3").number not in (first.number, other.number)


def test_a_recipe_that_is_lost_after_the_last_trial_began_is_tried_again(job: Job) -> None:
    driver = Driver(job, trials=2)
    for worker in ("one", "two"):
        driver.hand_out(worker)
    assert driver.dispatcher.hand_out("three") is None
    driver.dispatcher.lost("two", "killed")
    assert driver.dispatcher.hand_out("four") is not None


def test_a_recipe_that_succeeds_the_second_time_is_a_usual_trial(job: Job) -> None:
    driver = Driver(job, trials=1)
    asked = driver.hand_out("a")
    driver.dispatcher.lost("a", "the actor died")
    assert driver.dispatcher.work_left == 1
    assert not driver.dispatcher.is_over
    driver.work(driver.hand_out("b"))
    driver.finish("b")
    assert [(row["trial"], row["status"]) for row in driver.rows] == [(asked.number, "complete")]
    assert driver.dispatcher.is_over


def test_a_worker_that_dies_after_its_row_loses_nothing(job: Job) -> None:
    driver = Driver(job)
    driver.work(driver.hand_out("worker"))
    driver.dispatcher.lost("worker", "the actor died")
    assert [row["status"] for row in driver.rows] == ["complete"]
    assert driver.notes == []


def test_a_trial_that_hung_is_not_tried_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now = Driver(job), [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    driver.hand_out("worker")
    now[0] += 60.0
    driver.dispatcher.lost("worker", "the actor died")
    assert [row["reason"] for row in driver.rows] == ["time-out: it took longer than 1 minutes"]


def test_recipes_that_wait_at_the_deadline_are_left_for_a_resume(job: Job) -> None:
    driver = Driver(job, deadline=time.time() + 1000)
    asked = driver.hand_out("worker")
    driver.work(driver.hand_out("other"), seconds=2000.0)
    driver.finish("other")
    driver.dispatcher.lost("worker", "the actor died")
    assert driver.dispatcher.hand_out("other") is None
    assert driver.dispatcher.is_over
    assert driver.study.recover() == 1
    again = driver.study.ask(driver.opened.compose)
    assert again is not None
    assert again.values == asked.values


def test_workers_that_cannot_start_end_the_search(job: Job) -> None:
    driver = Driver(job)
    for _ in range(MOST_FAILED_STARTS):
        assert not driver.dispatcher.is_over
        driver.dispatcher.lost("worker", "Traceback\nImportError: no such thing\n")
    assert driver.dispatcher.is_over
    assert driver.dispatcher.start_error == "ImportError: no such thing"
    assert driver.rows == []


def test_starts_that_fail_because_their_node_is_lost_do_not_end_the_search(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, gone, now = Driver(job), set[str](), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    driver.dispatcher.is_node_gone = gone.__contains__

    def fail(node: str) -> None:
        for _ in range(MOST_FAILED_STARTS):
            driver.dispatcher.lost("worker", "the node died", node)
        assert driver.dispatcher.is_start_in_doubt
        assert not driver.dispatcher.is_over, "its node may be lost, which is not known yet"

    fail("dying")
    gone.add("dying")
    now[0] += NODES_KNOWN_AFTER_S
    assert not driver.dispatcher.is_start_in_doubt
    assert not driver.dispatcher.is_over
    fail("there")
    now[0] += NODES_KNOWN_AFTER_S
    assert driver.dispatcher.is_over
    assert driver.dispatcher.why_ended == "no worker starts any more: the node died"


def test_a_recipe_whose_worker_cannot_open_the_job_goes_to_another_one(job: Job) -> None:
    driver = Driver(job)
    first = driver.hand_out("good")
    for refusals in range(1, MOST_FAILED_STARTS + 1):
        driver.dispatcher.started()
        asked = driver.hand_out("worker")
        assert driver.dispatcher.refused("worker", "no room", "node") == (refusals == MOST_FAILED_STARTS)
    assert driver.rows == []
    assert driver.dispatcher.workers_seen == 0
    driver.dispatcher.start_no_more()
    assert not driver.dispatcher.is_over, "another worker is still running"
    driver.work(first)
    driver.finish("good")
    assert driver.hand_out("good").values == asked.values
    driver.dispatcher.give_back("good")
    assert driver.dispatcher.is_over
    assert driver.dispatcher.why_ended == "no worker starts any more: no room"


def test_a_trial_stopped_by_the_deadline_has_no_row_and_is_tried_again(job: Job) -> None:
    driver = Driver(job)
    driver.hand_out("worker")
    driver.finish("worker")
    assert driver.rows == []
    assert driver.study.recover() == 1


def test_time_for_making_images_does_not_count_for_a_trial(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now = Driver(job, trials=20), [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    reasons = {}
    for name, steps in {
        "killed later": [(True, 300.0), (False, 20.0)],
        "hangs later": [(True, 300.0), (False, 61.0)],
        "in the middle": [(True, 30.0)],
    }.items():
        while len(driver.rows) == len(reasons):
            asked = driver.hand_out(name)
            clock = driver.spool.clock(asked.number, asked.attempt)
            now[0] += 10
            for is_held, seconds in steps:
                clock(is_held)
                now[0] += seconds
            driver.dispatcher.lost(name, "the actor died")
        reasons[name] = (driver.rows[-1]["reason"].partition(":")[0], driver.rows[-1]["seconds"])
    assert reasons == {
        "killed later": ("the worker was lost", 30.0),
        "hangs later": ("time-out", 71.0),
        "in the middle": ("the worker was lost while images were made", 10.0),
    }


def test_losses_on_lost_nodes_do_not_count(job: Job) -> None:
    driver = Driver(job)
    driver.dispatcher.is_node_gone = {"gone"}.__contains__
    first = driver.hand_out("worker")
    for attempt in range(4):
        driver.dispatcher.lost("worker", "the node died", "gone")
        assert driver.hand_out("worker") == first, attempt
    for _ in range(3):
        assert driver.rows == []
        driver.dispatcher.lost("worker", "the actor died", "here")
        driver.hand_out("worker")
    (row,) = driver.rows
    assert row["reason"].endswith("(7 times)")


def test_late_rows_of_a_disconnected_worker_are_not_counted_twice(job: Job) -> None:
    driver = Driver(job)
    driver.dispatcher.is_node_gone = {"away"}.__contains__
    cut_off = driver.hand_out("first")
    driver.dispatcher.lost("first", "the node does not answer", "away")
    again = driver.hand_out("second")
    assert (again.number, again.attempt) == (cut_off.number, 2)
    driver.work(again, seconds=2.0)
    driver.finish("second")
    driver.work(cut_off, seconds=9.0)  # it continues until it notices that the driver has gone
    resumed = Driver(job)
    for number, row in resumed.spool.waiting():
        resumed.study.keep(number, row)
    assert [(row["trial"], row["seconds"]) for row in resumed.study.rows()] == [(cut_off.number, 2.0)]


def test_a_row_is_stored_once_even_if_it_is_sent_twice(job: Job) -> None:
    driver = Driver(job)
    asked = driver.hand_out("worker")
    driver.work(asked)
    (number, row) = next(driver.spool.waiting())
    driver.finish("worker")
    driver.study.keep(number, {**row, "accuracy": 1.0})
    assert driver.study.rows() == [row]


def test_files_in_the_spool_that_are_no_rows_are_ignored(job: Job) -> None:
    driver = Driver(job)
    asked = driver.hand_out("worker")
    driver.work(asked)
    folder = job.folder / "spool"
    for name, text in {"7.1.json": "{", "8.1.json": "[]", "9.1.json": '{"trial": 3}', "notes.json": "{}"}.items():
        (folder / name).write_text(text)
    assert [number for number, _ in driver.spool.waiting()] == [asked.number]
    driver.spool.clear()
    assert list(driver.spool.waiting()) == []

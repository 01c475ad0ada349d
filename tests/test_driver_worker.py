"""The driver's own workers, which try recipes while worker processes start."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_dispatch import BASELINE, Driver
from toy_search import toy_job

from autocompress.results import Row
from autocompress.searching.asked import Asked
from autocompress.searching.background import Background
from autocompress.searching.crew import forked as crew_places
from autocompress.searching.driver_worker import ALONE_EACH, DriverWorker
from autocompress.searching.early import TrialProcess, TrialThread
from autocompress.searching.gates import Lock
from autocompress.searching.measurer import Measurer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
DEADLINE = 60.0


def a_row(asked: Asked, lock: Lock) -> Row:
    """A finished trial that names its process."""
    with lock.shared():
        done = {"trial": asked.number, "status": "complete", "seconds": 0.1, "recipe": asked.values}
        return {**done, "accuracy": 88.0, "accuracy_drop": 2.0, "latency_ratio": 0.5, "process": os.getpid()}


class Crew:
    """A driver with its own worker: a thread and a forked process."""

    def __init__(self, folder: Path, attempt: Callable[[Asked, Lock], Row], trials: int = 12) -> None:
        self.driver = Driver(toy_job(folder, sampler="random"), trials=trials)
        opened = self.driver.opened
        measurer = Measurer(opened.device, self.driver.opened.job.device)
        self.process = TrialProcess(attempt, 1)
        self.worker = DriverWorker(
            self.driver.dispatcher,
            Background(opened, False, bool, measurer, BASELINE, self.driver.notes.append),
            TrialThread(attempt),
            [self.process],
            is_quick=lambda asked: not asked.rung,
            workers=2,
            threads=1,
            most_threads=1,
            most_seconds=DEADLINE,
        )

    def until(self, is_done: Callable[[], bool]) -> None:
        """Serves the workers until ``is_done``."""
        end = time.monotonic() + DEADLINE
        while not is_done():
            assert time.monotonic() < end
            self.worker.turn()
            time.sleep(0.01)

    @property
    def processes(self) -> set[int]:
        """The processes that made rows. Draws that are no valid recipe have none."""
        return {row["process"] for row in self.driver.rows if "process" in row}


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    made: list[Crew] = []

    def make(attempt: Callable[[Asked, Lock], Row] = a_row, **options: int) -> Crew:
        made.append(Crew(tmp_path, attempt, **options))
        return made[-1]

    yield make
    for one in made:
        one.worker.end()


def test_the_first_recipe_is_tried_in_the_forked_process_and_further_ones_in_both(crew: Callable[..., Crew]) -> None:
    own = crew()
    own.worker.start(with_recipe=True)
    own.until(lambda: bool(own.processes - {os.getpid()}))
    # On a busy machine, the thread may finish the second recipe before that process has started.
    first = min((row for row in own.driver.rows if "process" in row), key=lambda row: row["trial"])
    assert first["process"] != os.getpid()
    own.worker.alone()
    assert len(own.processes) == 2, "the thread of the driver tries recipes too"
    own.until(lambda: own.driver.dispatcher.is_over)
    assert len(own.driver.rows) == 12
    assert sorted(row["trial"] for row in own.driver.rows) == list(range(12))


def test_it_pauses_while_workers_start(crew: Callable[..., Crew]) -> None:
    own = crew(trials=50)
    own.worker.start(with_recipe=False)
    own.until(lambda: own.worker.background.is_done)
    own.worker.alone()
    made = [row for row in own.driver.rows if "process" in row]
    assert 2 * ALONE_EACH <= len(made) <= 2 * ALONE_EACH + 2


def test_worker_processes_replace_the_forked_process_first(crew: Callable[..., Crew]) -> None:
    own = crew(trials=1000)  # so many that the thread alone does not try all before the forked process has begun
    own.worker.start(with_recipe=True)
    own.until(lambda: len(own.processes) == 2)
    own.driver.dispatcher.started()
    own.until(lambda: not own.process.is_alive)
    before = len(own.driver.rows)
    own.until(lambda: len(own.driver.rows) > before + 3)
    assert {row.get("process", os.getpid()) for row in own.driver.rows[before + 2 :]} == {os.getpid()}
    own.driver.dispatcher.started()
    own.until(lambda: not own.worker.is_busy)


def test_a_killed_forked_process_loses_no_recipe(crew: Callable[..., Crew]) -> None:
    parent = os.getpid()

    def fatal(asked: Asked, lock: Lock) -> Row:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return a_row(asked, lock)

    own = crew(fatal)
    own.worker.start(with_recipe=True)
    own.until(lambda: own.driver.dispatcher.is_over)
    assert sorted(row["trial"] for row in own.driver.rows) == list(range(12))
    assert own.processes == {parent}
    assert "tried again (1 of 2)" in " ".join(own.driver.notes)


def test_a_process_that_dies_between_two_recipes_loses_none(crew: Callable[..., Crew]) -> None:
    own = crew()
    own.worker.start(with_recipe=True)
    while not own.driver.rows:
        own.worker.collect()
    (forked,) = own.processes
    os.kill(forked, signal.SIGKILL)
    while own.process.is_alive:
        time.sleep(0.01)
    own.until(lambda: own.driver.dispatcher.is_over)
    assert sorted(row["trial"] for row in own.driver.rows) == list(range(12))
    assert os.getpid() in own.processes


def test_a_row_that_has_arrived_is_collected(crew: Callable[..., Crew]) -> None:
    own = crew()
    own.worker.start(with_recipe=True)
    end = time.monotonic() + DEADLINE
    while not own.driver.rows and time.monotonic() < end:
        own.worker.collect()
    assert [row["trial"] for row in own.driver.rows] == [0]
    own.worker.end()
    assert not own.process.is_alive


def test_on_a_system_without_fork_only_the_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("autocompress.forking.Forked.started", fails)
    assert crew_places(a_row, 3) == []


def test_a_recipe_with_training_is_left_to_worker_processes(crew: Callable[..., Crew]) -> None:
    own = crew()
    own.worker.is_quick = lambda asked: False
    own.worker.start(with_recipe=False)
    own.worker.alone()
    assert not own.processes
    assert own.driver.dispatcher.hand_out("worker") is not None

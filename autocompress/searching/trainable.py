"""A worker process under Ray: takes a recipe, runs its trial, and tells the study."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune

from autocompress import watchdog
from autocompress.compute import give_memory_back
from autocompress.data import let_go
from autocompress.devices.lock import MachineLock
from autocompress.errors import TrialFailed, UserError
from autocompress.job import Job
from autocompress.locks import FileLock
from autocompress.opened.job import OpenedJob
from autocompress.results import Row
from autocompress.searching import rundir
from autocompress.searching.climbing.rows import climbed
from autocompress.searching.gates import Lock, Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import Opener, SearchableJob
from autocompress.searching.study import Study

log = logging.getLogger("autocompress.search")


def open_job(job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
    """The opener of every real search."""
    return OpenedJob.open(job, progress)


@dataclass(frozen=True)
class Settings:
    """What every worker of a search is given.

    Attributes:
        job: of the search.
        folder: ``results/<name>``, absolute.
        baseline: the baseline's row, as the driver measured it.
        threads: of torch in each worker.
        cwd: of the driver.
        methods: versions of the driver's methods by name; a worker with others cannot compose its
            recipes.
        deadline: no trial is taken up after it (seconds since the epoch); None: no limit.
        opener: opens the job, once a process.
    """

    job: Job
    folder: Path
    baseline: Row
    threads: int
    cwd: Path
    methods: Mapping[str, str]
    deadline: float | None = None
    opener: Opener = open_job


@dataclass(frozen=True)
class Task:
    """What the driver sends to a worker: a recipe, its number, label and rung."""

    number: int
    values: dict[str, Any]
    label: str
    rung: int = 0


@dataclass
class WorkerState:
    """What a worker process opens once and uses for all its trials."""

    opened: SearchableJob
    measurer: Measurer
    lock: Lock

    @classmethod
    def of(cls, settings: Settings) -> WorkerState:
        """Opens the job.

        Raises:
            TrialFailed: if the methods that act here are not those of the driver.
        """
        opened = settings.opener(settings.job)
        if differences := method_differences(settings.methods, opened):
            raise TrialFailed("; ".join(differences))
        let_go(opened.splits.test)  # a worker has no business with them
        state = cls(opened, Measurer.of(settings.job, opened.device), MachineLock())
        gc.collect()
        gc.freeze()  # what lasts is not looked through again after every trial (0.3 s)
        return state


def method_differences(expected: Mapping[str, str], opened: SearchableJob) -> list[str]:
    """How the methods of a worker's opened job differ from the driver's, a phrase each.

    Args:
        expected: versions of the driver's methods by name.
        opened: as this worker opened it.
    """
    own = {method.name: method.version for method in opened.methods}
    found = []
    for name, version in expected.items():
        if name not in own:
            reasons = opened.refused.get(name, [])
            why = "; ".join(reasons) if reasons else "it is not installed here"
            found.append(f"the driver has the method '{name}', this worker has not: {why}")
        elif own[name] != version:
            found.append(f"the driver has version {version} of the method '{name}', this worker version {own[name]}")
    found += [f"this worker has the method '{name}', the driver has not" for name in own if name not in expected]
    return found


@dataclass
class Worker:
    """A worker process of one search.

    Attributes:
        settings: of the search.
        study: where rows go.
        state: opened with the first trial, so that its time limit covers it.
        held: tells a later driver that this worker lives.
    """

    settings: Settings
    study: Study
    state: WorkerState | None = None
    held: FileLock | None = None

    @classmethod
    def of(cls, settings: Settings) -> Worker:
        """The worker that this process is."""
        os.chdir(settings.cwd)  # paths in a job are relative to where the search was started
        torch.set_num_threads(settings.threads)
        held = rundir.hold_as_worker(settings.folder)
        return cls(settings, Study(settings.folder, settings.job, settings.baseline), held=held)

    def run(self, number: int, values: dict[str, Any], label: str, rung: int = 0) -> Row:
        """Runs a trial, or trains it to a higher rung, and tells the study; returns the row."""
        try:
            self.state = self.state or WorkerState.of(self.settings)
        except Exception as error:  # the driver could open the job, this process cannot: say why
            log.exception("trial %d: the worker could not open the job", number)
            kind = "" if isinstance(error, TrialFailed | UserError) else f"{type(error).__name__}: "
            reason = f"the worker could not open the job: {kind}{error}"
            row: Row = {"trial": number, "status": "failed", "reason": reason, "seconds": 0.0, "rung": 0}
            row |= {"recipe": values, "label": label}
            below = self.study.row(number) if rung else None
            row = row if below is None else climbed(below, row, rung)
        else:
            row = self._tried(self.state, number, values, label, rung)
        if rung:
            self.study.amend(number, row)
        else:
            self.study.tell(number, row)
        give_memory_back()  # traced models are circles: without it those of several trials would pile up
        return row

    def _tried(self, state: WorkerState, number: int, values: dict[str, Any], label: str, rung: int) -> Row:
        folder, baseline = self.settings.folder, self.settings.baseline
        trial = Trial(state.opened, state.measurer, state.lock, number, folder, baseline)
        below = self.study.row(number) if rung else None
        return trial.run(values, label) if below is None else trial.climb(below, rung)


class WorkerProcess(tune.Trainable):
    """A worker as Ray Tune sees it: one Tune trial a process, one step a recipe.

    The driver puts a recipe into it (:meth:`take`) before each step. So a worker is never given to
    another Tune trial, a second worker is never given up because the first is free again, and a
    recipe is asked only when it is needed.
    """

    def setup(self, config: dict[str, Any], settings: Settings | None = None) -> None:
        """Called once a process; ``settings`` come through ``tune.with_parameters``."""
        del config
        assert settings is not None
        self._worker = Worker.of(settings)
        self._task: Task | None = None

    def take(self, task: Task | None) -> None:
        """The recipe of the next step; None ends the worker."""
        self._task = task

    def step(self) -> dict[str, Any]:
        """Runs one recipe: its row is in the study when this returns."""
        task, self._task = self._task, None
        if task is None:
            return {"done": True}
        deadline = self._worker.settings.deadline
        if deadline is None or time.time() < deadline:
            self._run(task)
        return {"done": False, "trial": task.number}

    def _run(self, task: Task) -> None:
        folder, budget = self._worker.settings.folder, self._worker.settings.job.budget
        with (folder / rundir.LOG_FILE).open("a", encoding="utf-8") as dump, rundir.logged(folder):
            # Ends even a kernel that never returns; the driver then finds no row and writes the
            # failed one.
            held = partial(self._worker.study.hold, task.number)
            self._worker.study.start(task.number)  # before the watchdog: a trial that it ends had its whole time
            with watchdog.watched(60.0 * budget.trial_minutes, dump, held):
                self._worker.run(task.number, task.values, task.label, task.rung)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept: the study and the stage cache are the truth."""
        del checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""
        del checkpoint

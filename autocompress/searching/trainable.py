"""What a worker process does: it opens the job and runs the trials of recipes."""

from __future__ import annotations

import gc
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autocompress import watchdog
from autocompress.cluster.handing import taken
from autocompress.compute import give_memory_back
from autocompress.data import let_go
from autocompress.devices.lock import MachineLock
from autocompress.devices.machine import machine
from autocompress.errors import CannotWork, TrialFailed, UserError
from autocompress.locks.place import machine_id
from autocompress.results import Row
from autocompress.searching import rundir
from autocompress.searching.asked import Asked
from autocompress.searching.gates import Lock, Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import SearchableJob
from autocompress.searching.settings import Settings
from autocompress.searching.spool import Spool
from autocompress.searching.stations import RemoteMeasurer, rotated

log = logging.getLogger("autocompress.search")


@dataclass
class WorkerState:
    """The objects that a worker process opens once and uses for all its trials."""

    opened: SearchableJob
    measurer: Measurer
    lock: Lock

    @classmethod
    def of(cls, settings: Settings) -> WorkerState:
        """Opens the job.

        Raises:
            TrialFailed: if the active methods are not those of the driver.
        """
        with taken(settings.handed):
            opened = settings.opener(settings.job)
        if differences := method_differences(settings.methods, opened):
            raise TrialFailed("; ".join(differences))
        let_go(opened.splits.test)  # a worker must not use them
        state = cls(opened, _measurer(settings, opened), MachineLock())
        gc.collect()
        gc.freeze()  # garbage collection after a trial then skips these objects, which takes 0.3 s less
        return state


def _measurer(settings: Settings, opened: SearchableJob) -> Measurer:
    """Measures on this machine, or on another one if only others have the job's device."""
    own = Measurer.of(settings.job, opened.device)
    if not settings.stations or machine_id() in settings.stations:
        return own
    stations = rotated(list(settings.stations.values()), os.getpid())
    return RemoteMeasurer(own.device, own.config, own.energy_device, stations, settings.measured_by)


def method_differences(expected: Mapping[str, str], opened: SearchableJob) -> list[str]:
    """The differences between the methods of a worker and those of the driver, as texts.

    Args:
        expected: versions of the driver's methods by name.
        opened: the opened job of this worker.
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
    """A worker process of one search, without access to the study.

    Attributes:
        settings: settings of the search.
        spool: files with rows that the driver has not added to the study yet.
        state: opened with the first trial, whose time limit covers the opening.
    """

    settings: Settings
    spool: Spool
    state: WorkerState | None = None

    @classmethod
    def of(cls, settings: Settings) -> Worker:
        """The worker of this process."""
        for name, value in settings.environment.items():
            os.environ.setdefault(name, value)
        if settings.cwd.is_dir():  # missing on some nodes of a cluster, where all paths are absolute
            os.chdir(settings.cwd)  # paths in a job are relative to where the search was started
        torch.set_num_threads(settings.threads)
        return cls(settings, Spool(settings.folder))

    def run(self, asked: Asked) -> Row:
        """Runs a trial, or trains it to a higher rung, and puts its row into the spool.

        Raises:
            CannotWork: if this process cannot open the job, or no device answers. There is no row
                then.
        """
        try:
            self.state = self.state or WorkerState.of(self.settings)
        except Exception as error:  # the driver could open the job, but this process cannot
            log.exception("trial %d: the worker could not open the job", asked.number)
            kind = "" if isinstance(error, TrialFailed | UserError) else f"{type(error).__name__}: "
            raise CannotWork(f"the worker could not open the job: {kind}{error}") from error
        row = self._tried(self.state, asked)
        if not self.settings.job.cluster.is_local:
            row |= {"node": platform.node(), "processor": machine()["processor"]}
        self.spool.write(asked.number, asked.attempt, row)
        give_memory_back()  # traced models have reference cycles, so those of several trials would accumulate
        return row

    def run_in_time(self, asked: Asked) -> Row:
        """As :meth:`run`; ends this process if the trial takes longer than the job allows.

        That also ends a native function that never returns. The driver then finds no row, and
        writes a failed one.
        """
        folder, budget = self.settings.folder, self.settings.job.budget
        with (folder / rundir.LOG_FILE).open("a", encoding="utf-8") as dump, rundir.logged(folder):
            clock = self.spool.clock(asked.number, asked.attempt)
            with watchdog.watched(60.0 * budget.trial_minutes, dump, clock):
                return self.run(asked)

    def _tried(self, state: WorkerState, asked: Asked) -> Row:
        folder, baseline = self.settings.folder, self.settings.baseline
        trial = Trial(state.opened, state.measurer, state.lock, asked.number, folder, baseline)
        return trial.run(asked.values, asked.label) if asked.below is None else trial.climb(asked.below, asked.rung)

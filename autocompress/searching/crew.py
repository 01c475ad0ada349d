"""The workers of a search: the driver's own, and the settings of worker processes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autocompress.compute import compute_of
from autocompress.devices import apart
from autocompress.files import own_variables
from autocompress.job import Job
from autocompress.processors import usable_processors
from autocompress.proposals.proposer import Point
from autocompress.recipes.choosers import Replay
from autocompress.results import Row
from autocompress.scoring import worker_threads
from autocompress.searching.asked import Asked
from autocompress.searching.background import Background
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.driver_worker import DriverWorker
from autocompress.searching.early import Attempt, TrialProcess, TrialThread
from autocompress.searching.gates import Lock, Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import Opener, SearchableJob
from autocompress.searching.settings import Settings

if TYPE_CHECKING:
    from autocompress.searching.site import Site

MOST_FORKED = 3
"""Maximum number of forked processes that try recipes before workers have started.

A dozen proposals wait to be tried then.
"""


@dataclass(frozen=True)
class Crew:
    """Makes the workers of a search.

    Attributes:
        job: job of the search.
        folder: ``results/<name>``.
        opened: the job as the driver has opened it.
        opener: opens it in worker processes.
        measurer: measures on the devices of the job.
        baseline: the row of the baseline.
        cluster: the cluster; None on one machine.
    """

    job: Job
    folder: Path
    opened: SearchableJob
    opener: Opener
    measurer: Measurer
    baseline: Row
    cluster: Site | None

    @property
    def is_crowded(self) -> bool:
        """Whether worker processes will use all processors of this machine."""
        return self.cluster is None and usable_processors() <= self.job.workers

    def trains(self, point: Point) -> bool:
        """Whether a recipe may take long.

        It is True for an invalid recipe, so that a worker tries it and reports the reason.
        """
        try:
            return self.opened.compose(Replay(point[1])).trains
        except Exception:  # a plugin's fault must not end the search
            return True

    def own(self, dispatcher: Dispatcher, background: Background, allowance: Allowance, *, forks: bool) -> DriverWorker:
        """The driver's own worker, with forked processes if ``forks`` and that is safe."""
        folder = self.folder.resolve()

        def attempt(asked: Asked, lock: Lock) -> Row:
            trial = Trial(self.opened, self.measurer, lock, asked.number, folder, self.baseline)
            return trial.run(asked.values, asked.label)

        most = min(usable_processors() - 1, self.job.workers - 1, MOST_FORKED) if forks and self._may_fork else 0
        return DriverWorker(
            dispatcher,
            background,
            TrialThread(attempt),
            forked(attempt, most),
            is_quick=lambda asked: not asked.rung and not self.trains((asked.label, asked.values)),
            workers=self.job.workers,
            threads=self._threads,
            most_threads=max(self._threads, min(torch.get_num_threads(), usable_processors())),
            most_seconds=allowance.trial_seconds,
        )

    def settings(self, deadline: float | None) -> Settings:
        """The settings of worker processes.

        Args:
            deadline: end of the search, in seconds since the epoch; None for no limit.
        """
        cluster: dict[str, Any] = {}
        if self.cluster is not None:
            from autocompress.cluster.handing import handed_out  # imports Ray

            cluster = {
                "handed": handed_out(self.opened.baseline.deployable.file, self.opened.prepared),
                "stations": self.cluster.stations,
                "measured_by": self.measurer.measured_with(),
                "environment": own_variables(),
            }
        return Settings(
            job=self.opened.job,  # with the decisions of the driver for all workers
            folder=self.folder.resolve(),
            baseline=self.baseline,
            threads=self._threads,
            cwd=Path.cwd(),
            deadline=deadline,
            methods={method.name: method.version for method in self.opened.methods},
            opener=self.opener,
            **cluster,
        )

    @property
    def _threads(self) -> int:
        """Threads of torch in each worker."""
        asked = self.job.compute.threads
        return asked if asked != "auto" else worker_threads(self.job)

    @property
    def _may_fork(self) -> bool:
        """Whether a forked process can try recipes."""
        return apart.can_measure(self.measurer.device, self.measurer.config, compute_of(self.job.compute).device)


def forked(attempt: Attempt, most: int) -> list[TrialProcess]:
    """Forked processes that try recipes; fewer than ``most`` where the system allows no more."""
    made: list[TrialProcess] = []
    with suppress(OSError):
        made.extend(TrialProcess(attempt, number) for number in range(1, 1 + most))
    return made

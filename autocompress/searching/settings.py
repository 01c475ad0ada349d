"""The settings of the workers of a search. Importing them does not import Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.job import Job
from autocompress.opened.job import OpenedJob
from autocompress.results import Row
from autocompress.searching.searchable import Opener, SearchableJob

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from autocompress.cluster.handing import Handed


def open_job(job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
    """The opener of every real search."""
    return OpenedJob.open(job, progress)


@dataclass(frozen=True)
class Settings:
    """The settings of all workers of a search.

    Attributes:
        job: job of the search.
        folder: ``results/<name>``, absolute.
        baseline: the baseline's row, as the driver measured it.
        threads: number of threads of torch in each worker.
        cwd: working folder of the driver.
        methods: versions of the driver's methods by name; a worker with other methods cannot
            compose its recipes.
        deadline: no trial begins after it (seconds since the epoch); None: no limit.
        opener: opens the job, once per process.
        handed: what the driver made when it opened the job; None if workers share its cache.
        stations: measurers by machine; empty if each worker measures on its own machine.
        measured_by: values on which latencies of the stations depend.
        environment: environment variables of the driver, for processes that lack them.
    """

    job: Job
    folder: Path
    baseline: Row
    threads: int
    cwd: Path
    methods: Mapping[str, str]
    deadline: float | None = None
    opener: Opener = open_job
    handed: Handed | None = None
    stations: Mapping[str, ActorHandle] = field(default_factory=dict)
    measured_by: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

"""Runs a search from start to end, or resumes one."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from contextlib import AbstractContextManager
from pathlib import Path

from autocompress.contract import manager_for
from autocompress.errors import UserError
from autocompress.files import full_disk_told
from autocompress.job import Job, anchored, load_job, resolved, validate
from autocompress.results import (
    JOB_FILE,
    SearchResult,
)
from autocompress.searching import requirements, rundir, stopping
from autocompress.searching.clock import Clock
from autocompress.searching.driver import Driver
from autocompress.searching.mirror import Mirror
from autocompress.searching.progress import Observer, Silent
from autocompress.searching.recorded import Recorded
from autocompress.searching.runurls import mirrored, resumed
from autocompress.searching.searchable import Opener
from autocompress.searching.settings import open_job
from autocompress.searching.storing import opening as storing

LIBRARIES = ("autocompress", "torch", "timm", "optuna", "ray", "onnx", "onnxruntime")


def search(
    job: Job, *, observer: Observer | None = None, opener: Opener = open_job, began: float | None = None
) -> SearchResult:
    """Searches for the front of ``job``.

    Ctrl-C ends it early: the run is closed with the front so far, and ``summary["ended"]`` is
    "interrupted". SIGTERM ends it without closing. In both cases :func:`resume` continues.

    Args:
        job: see ``autocompress.job.load_job``.
        observer: notified of progress.
        opener: opens the job, in this process and in every worker.
        began: start of the job's minutes, by ``time.monotonic``; now, by default.

    Returns:
        The finished run, read from ``results/<name>``.

    Raises:
        UserError: if the job cannot be carried out, the run exists already, or this machine cannot
            run Ray.
        KeyboardInterrupt: on Ctrl-C before the first trial, or on a second Ctrl-C.
        Terminated: on SIGTERM. It is a SystemExit with code 75.
    """
    clock = Clock(time.monotonic() if began is None else began)
    plugins = manager_for(job)
    validate(job, plugins)
    requirements.check(job)
    storing.check(job.search.storage)
    job = anchored(resolved(job), plugins)
    with (
        stopping.caught(),
        mirrored(job) as mirror,
        rundir.begun(job, versions()) as folder,
        rundir.logged(folder),
        _full_disk_told(folder),
        Recorded(observer or Silent(), folder, job.workers) as recorded,
        requirements.connected(job, folder, plugins.device(job.device.name), recorded.on_note) as cluster,
    ):
        if mirror is not None:
            mirror.begin()
        return Driver(job, folder, recorded, opener, plugins, clock, cluster, mirror).go()


def resume(
    folder: Path | str,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    observer: Observer | None = None,
    opener: Opener = open_job,
    began: float | None = None,
) -> SearchResult:
    """Continues the search in ``folder``.

    Finished trials are kept, and interrupted ones are tried again. The trials and minutes that were
    spent are part of the budget.

    Args:
        folder: ``results/<name>``, or its URL.
        trials, minutes: a new budget for the whole search; None for that of the job.
        observer: notified of progress.
        opener, began: as for :func:`search`.

    Raises:
        UserError: if ``folder`` is not a run, another process drives it, its job cannot be carried
            out here, or new rows would not be comparable with its rows. That is so if the job
            (except name, budget, workers and sampler), the images, the baseline, versions of
            libraries, or the measuring machine have changed.
        KeyboardInterrupt, Terminated: as :func:`search`.
    """
    clock = Clock(time.monotonic() if began is None else began)
    with stopping.caught(), resumed(Path(folder)) as (home, mirror):
        if not (home / JOB_FILE).is_file():
            raise UserError(f"{folder} is not a run: it has no {JOB_FILE}", "give the folder that a search wrote")
        job = load_job(home / JOB_FILE, {"trials": trials, "minutes": minutes}, flags=True)  # errors name --trials
        if mirror is None:
            place = home.resolve()  # it may have been moved or renamed since
            job = job.model_copy(update={"results": place.parent, "name": place.name})
        return _go_on(job, home, mirror, clock, observer, opener)


def _go_on(
    job: Job, folder: Path, mirror: Mirror | None, clock: Clock, observer: Observer | None, opener: Opener
) -> SearchResult:
    """Resumes the run in ``folder``."""
    plugins = manager_for(job)
    validate(job, plugins)
    requirements.check(job)
    storing.check(job.search.storage)
    with (
        rundir.driver(folder),
        rundir.logged(folder),
        _full_disk_told(folder),
        Recorded(observer or Silent(), folder, job.workers) as recorded,
        requirements.connected(job, folder, plugins.device(job.device.name), recorded.on_note) as cluster,
    ):
        return Driver(job, folder, recorded, opener, plugins, clock, cluster, mirror).go()


def _full_disk_told(folder: Path) -> AbstractContextManager[None]:
    return full_disk_told(folder, f"make room; 'autocompress resume {folder}' continues")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries on which a run depends."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found

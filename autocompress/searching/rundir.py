"""The folder of a run: made once, driven by one process at a time, its log."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import UserError
from autocompress.files import write_text
from autocompress.job import Job
from autocompress.locks import FileLock
from autocompress.results import JOB_FILE

LOG_FILE = "log.txt"
SCRATCH = Path("ray") / "scratch"
WORKERS_LOCK = "workers.lock"
WORKERS_GO_WITHIN_S = 90.0
"""So long the workers of a search that was killed may take to go; Ray ends them within seconds."""


def create(job: Job, versions: dict[str, str]) -> Path:
    """Makes ``results/<name>`` with job.yaml.

    Raises:
        UserError: if the run exists already, or the folder cannot be written.
    """
    folder = job.folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} exists already", f"'autocompress resume {folder}' goes on with it, --name starts another"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / JOB_FILE, job.to_yaml(versions))
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}", "choose another --results") from None
    return folder


@contextmanager
def driver(folder: Path) -> Iterator[None]:
    """Held while a process drives the search in ``folder``; waits for workers that a killed search
    left behind, and removes what they had under way.

    Raises:
        UserError: if another process drives it.
    """
    ray_folder = folder / "ray"
    ray_folder.mkdir(exist_ok=True)
    own, workers = FileLock(ray_folder / "driver.lock"), FileLock(ray_folder / WORKERS_LOCK)
    try:
        if not own.acquire(seconds=0) and not own.acquire(seconds=own.worth_waiting()):
            raise UserError(f"another process is running the search in {folder}", "wait for it, or end it first")
        if not workers.acquire(seconds=WORKERS_GO_WITHIN_S):
            raise UserError(f"a worker of an earlier search in {folder} is still running", "end it first")
        workers.release()  # from here on they are this search's own
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    finally:
        own.close()
        workers.close()


def scratch_folder(folder: Path) -> Path:
    """Where trials keep files while they run: beside the results, where there is room for
    models."""
    scratch = folder / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def hold_as_worker(folder: Path) -> FileLock:
    """Marks this process as a worker of ``folder``, until it ends or the lock that is returned is
    released."""
    lock = FileLock(folder / "ray" / WORKERS_LOCK)
    lock.acquire("shared")
    return lock


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Everything that the engine logs goes to ``log.txt`` meanwhile; several processes may append
    to it."""
    handler = logging.FileHandler(folder / LOG_FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("autocompress")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()

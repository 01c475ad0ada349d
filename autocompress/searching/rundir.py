"""The folder of a run: made once, driven by one process at a time, its log."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import UserError
from autocompress.files import write_text
from autocompress.job import Job
from autocompress.results import JOB_FILE

LOG_FILE = "log.txt"
SCRATCH = Path("ray") / "scratch"
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
    """Held while a process drives the search in ``folder``; waits for workers that a killed search left behind, and
    removes what they had under way.

    Raises:
        UserError: if another process drives it.
    """
    ray_folder = folder / "ray"
    ray_folder.mkdir(exist_ok=True)
    with (ray_folder / "driver.lock").open("w") as own:
        if not _take(own.fileno(), fcntl.LOCK_EX, 0.0):
            raise UserError(f"another process is running the search in {folder}", "wait for it, or end it first")
        with (ray_folder / "workers.lock").open("w") as workers:
            if not _take(workers.fileno(), fcntl.LOCK_EX, WORKERS_GO_WITHIN_S):
                raise UserError(f"a worker of an earlier search in {folder} is still running", "end it first")
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)


def scratch_folder(folder: Path) -> Path:
    """Where trials keep files while they run: beside the results, where there is room for models."""
    scratch = folder / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def hold_as_worker(folder: Path) -> int:
    """Marks this process as a worker of ``folder`` until it ends; the returned descriptor must stay open."""
    descriptor = os.open(folder / "ray" / "workers.lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _take(descriptor: int, kind: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        else:
            return True


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Everything that the engine logs goes to ``log.txt`` meanwhile; several processes may append to it."""
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

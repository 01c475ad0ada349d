"""The folder of a run: creating it, its lock and its log."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import UserError
from autocompress.files import is_full_disk, write_text
from autocompress.job import Job
from autocompress.locks import FileLock
from autocompress.results import FRONT_FILE, JOB_FILE, SENSITIVITY_FILE, TABLES_FILE, TRIALS_FILE
from autocompress.searching.mirror import STATE
from autocompress.searching.spool import SPOOL
from autocompress.searching.storing.names import NAME_FILE, STUDY_FILE

log = logging.getLogger("autocompress.search")
LOG_FILE, ARTIFACTS, RAY = "log.txt", "artifacts", "ray"
SCRATCH = Path(RAY) / "scratch"
LEFT_BY_A_START = (JOB_FILE, STUDY_FILE, NAME_FILE, SENSITIVITY_FILE, TABLES_FILE, SPOOL, STATE, "structures")
"""Files of a start that failed before the first trial, besides its log."""


def create(job: Job, versions: dict[str, str]) -> Path:
    """Makes ``results/<name>`` with job.yaml; see :func:`begun`."""
    with begun(job, versions) as folder:
        return folder


@contextmanager
def begun(job: Job, versions: dict[str, str]) -> Iterator[Path]:
    """Makes ``results/<name>`` with job.yaml, under the lock of its :func:`driver`.

    A start that failed before the first trial leaves job.yaml and its log. The name can be used
    again: the next start appends to the log and replaces the rest.

    Raises:
        UserError: if the run exists already, another process is starting it, or the folder cannot
            be written.
    """
    folder = job.folder
    refuse_existing(folder)
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with driver(folder):
        refuse_existing(folder)  # another process may have made a run meanwhile
        with _written(folder):
            for name in LEFT_BY_A_START:
                _remove(folder / name)
            write_text(folder / JOB_FILE, job.to_yaml(versions))
        yield folder


def refuse_existing(folder: Path) -> None:
    """Refuses the folder of a new run unless it is new, empty, or from a failed start.

    Raises:
        UserError: if it is refused, or cannot be read.
    """
    with _written(folder):
        if not folder.exists() and not folder.is_symlink():
            return
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        has_results = bool(names & {TRIALS_FILE, FRONT_FILE, ARTIFACTS})
        if names and (has_results or not (folder / RAY).is_dir()):
            raise UserError(
                f"{folder} exists already", f"'autocompress resume {folder}' continues it, --name starts another"
            )


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}", "choose another --results") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def driver(folder: Path) -> Iterator[None]:
    """Holds the lock of the process that drives the search in ``folder``.

    Unfinished files of a killed search are removed. Ray ends its workers within a second; files
    that such a worker still writes belong to trials that nobody needs.

    Raises:
        UserError: if another process drives it, or the folder cannot be written.
    """
    own = FileLock(folder / RAY / "driver.lock")
    try:
        with _written(folder):
            (folder / RAY).mkdir(exist_ok=True)
            is_alone = own.acquire(seconds=0) or own.acquire(seconds=own.worth_waiting())
        if not is_alone:
            raise UserError(f"another process is running the search in {folder}", "wait for it, or end it first")
        _drop_unfinished(folder)
        try:
            yield
        finally:
            _drop_unfinished(folder)
    finally:
        own.close()


def _drop_unfinished(folder: Path) -> None:
    """Removes unfinished files of trials. No trial may be running."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for half in (folder / ARTIFACTS).glob(".*"):  # an artifact gets its name when it is complete
        shutil.rmtree(half, ignore_errors=True)


def scratch_folder(folder: Path) -> Path:
    """The folder for files of running trials, next to the results, where there is room."""
    scratch = folder / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


class _LogFile(logging.FileHandler):
    """A log that drops lines on a full disk instead of raising."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not is_full_disk(sys.exception() or RuntimeError()):
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            if not is_full_disk(error):
                raise


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Writes the log of the engine, and an error that ends the run, to ``log.txt``.

    Several processes may append to the file.
    """
    with _written(folder):
        handler = _LogFile(folder / LOG_FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("autocompress")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except UserError as error:
        log.error("ended: %s", error)
        raise
    except BaseException as error:
        log.error("ended by %s", type(error).__name__, exc_info=isinstance(error, Exception))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()

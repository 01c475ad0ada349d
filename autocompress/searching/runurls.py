"""Finds runs that may be on a URL, and holds them while a search drives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import UserError
from autocompress.job import Job, folder_of
from autocompress.remote import checked_url, url_of
from autocompress.results import JOB_FILE
from autocompress.searching.mirror import Mirror, stored_url


def has_begun(job: Job) -> bool:
    """Whether the run of this job exists, in its folder or on its URL."""
    if job.run_url is None:
        return (job.folder / JOB_FILE).is_file()
    return Mirror(job.run_url, job.folder).exists


def home_of(place: Path) -> tuple[Path, str | None]:
    """The folder of a run on this machine, with its job, and the URL of the run if it has one.

    Args:
        place: the folder of a run, or its URL.

    Raises:
        UserError: if there is no run on the URL, or storage cannot be used.
    """
    url = url_of(place) or stored_url(place)
    if url is None:
        return place, None
    mirror = _mirror_of(url)
    mirror.fetch_job()
    return mirror.folder, url


def _mirror_of(url: str) -> Mirror:
    """The mirror of an existing run.

    Raises:
        UserError: if there is no run on the URL, or storage cannot be used.
    """
    try:
        results, _, name = checked_url(url).rpartition("/")
    except ValueError as error:
        raise UserError(f"the URL {error}") from None
    mirror = Mirror(url, folder_of(results, name))
    if not mirror.exists:
        raise UserError(f"{url} is not a run: it has no {JOB_FILE}", "give the URL that a search wrote")
    return mirror


@contextmanager
def mirrored(job: Job) -> Iterator[Mirror | None]:
    """The claimed mirror of a new run; None if results are in a folder.

    Raises:
        UserError: if the run exists already, another process drives it, or storage cannot be used.
    """
    if job.run_url is None:
        yield None
        return
    mirror = Mirror(job.run_url, job.folder)
    if mirror.exists:
        raise UserError(f"{mirror.url} exists already", f"'autocompress resume {mirror.url}' continues it")
    mirror.claim()
    try:
        yield mirror
    finally:
        mirror.release()


@contextmanager
def resumed(place: Path) -> Iterator[tuple[Path, Mirror | None]]:
    """The folder of a run; restored from objects if ``place`` is a URL or belongs to one.

    Raises:
        UserError: if there is no run, another process drives it, or storage cannot be used.
    """
    url = url_of(place) or stored_url(place)
    if url is None:
        yield place, None
        return
    mirror = _mirror_of(url)
    mirror.claim()
    try:
        mirror.fetch()
        yield mirror.folder, mirror
    finally:
        mirror.release()

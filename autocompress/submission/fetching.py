"""Copies the results of a run from a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

from autocompress.errors import UserError
from autocompress.remote import Objects, RemoteError, checked_url, is_url

NOT_COPIED = ("journal/", "driver.json", "ray/", "spool/", ".")


def fetch(place: str, to: Path) -> Path:
    """Copies the run at ``place`` (a URL, or a folder that this machine can read) into ``to``.

    Returns:
        The folder of the run.

    Raises:
        UserError: if there is no run, or it cannot be read.
    """
    target = to / place.rstrip("/").rpartition("/")[2]
    if is_url(place):
        try:
            _download(checked_url(place), target)
        except ValueError as error:
            raise UserError(f"the URL {error}") from None
        except RemoteError as error:
            raise UserError(f"the run cannot be fetched: {error}") from None
    elif (Path(place) / "job.yaml").is_file():
        shutil.copytree(place, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("ray", "spool"))
    else:
        raise UserError(
            f"this machine cannot read {place}",
            "copy it from a node of the cluster, or write results to a URL: --results s3://bucket/runs",
        )
    return target


def _download(url: str, target: Path) -> None:
    remote = Objects(url)
    names = [name for name in remote.names() if not name.startswith(NOT_COPIED)]
    if "job.yaml" not in names:
        raise UserError(f"{url} is not a run: it has no job.yaml")
    for name in names:
        remote.fetch(name, target / name)

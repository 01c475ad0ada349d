"""Opens the storage of a run's study."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from autocompress.errors import UserError
from autocompress.files import STORAGE_PASSWORD, write_json
from autocompress.searching.storing.database import DatabaseStorage, connected
from autocompress.searching.storing.journal import FileStorage
from autocompress.searching.storing.names import NAME_FILE, STUDY_FILE
from autocompress.searching.storing.outages import away
from autocompress.searching.storing.redisjournal import RedisStorage

STUDY_NAME = "autocompress"


@dataclass(frozen=True)
class Kept:
    """The storage of a study.

    Attributes:
        storage: storage of Optuna.
        name: name of the study in the storage.
        note: note for the user; empty if there is none.
        is_shared: other processes could change the study too.
    """

    storage: BaseStorage
    name: str
    note: str = ""
    is_shared: bool = False


def check(url: str | None) -> None:
    """Connects to the server of a job's study, and makes its tables.

    Raises:
        UserError: if that fails.
    """
    if url is not None:
        _opened(url, "check")


def has_study(folder: Path) -> bool:
    """Whether the run in ``folder`` has begun a study."""
    return (folder / STUDY_FILE).exists() or (folder / NAME_FILE).exists()


def study_of(folder: Path, url: str | None, name: str) -> Kept:
    """The storage of the study of the run in ``folder``.

    Args:
        folder: folder of the run.
        url: URL of the server; None for a file in ``folder``.
        name: name of the run; the name of a new study on a server begins with it.

    Raises:
        UserError: if the study cannot be read, or is not stored where ``url`` says.
    """
    if url is None:
        if (folder / NAME_FILE).exists():
            raise UserError(
                f"the study of {folder} is on the server {_known(folder)['storage']}",
                "give it as 'search.storage' in job.yaml",
            )
        storage = _journal(folder)
        names = [study.study_name for study in storage.get_all_studies()]  # earlier versions used the job's name
        return Kept(storage, names[0] if names else STUDY_NAME)
    if (folder / STUDY_FILE).exists():
        raise UserError(f"the study of {folder} is in its file {STUDY_FILE}", "leave 'search.storage' out of job.yaml")
    if not (folder / NAME_FILE).exists():
        write_json(folder / NAME_FILE, {"study": f"{name}-{uuid.uuid4().hex[:8]}", "storage": url})
    return _opened(url, _known(folder)["study"])


def _known(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / NAME_FILE).read_text(encoding="utf-8"))
        return {"study": found["study"], "storage": found["storage"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / NAME_FILE} cannot be read: {error}", "bring back a copy of it") from None


def _journal(folder: Path) -> FileStorage:
    file = (folder / STUDY_FILE).absolute()
    try:
        return FileStorage(file)
    except (ValueError, KeyError) as error:
        raise UserError(f"the study {file} is damaged: {error}", "bring back a copy of it") from error


def _opened(url: str, name: str) -> Kept:
    """The study called ``name`` on a server."""
    password = os.environ.get(STORAGE_PASSWORD) or None
    if url.startswith("postgresql:"):
        with _told(url, "postgresql"):
            return Kept(DatabaseStorage(connected(url, password), url), name, is_shared=True)
    with _told(url, "redis"):
        storage = RedisStorage(url, password, name)
        note = "" if storage.journal.is_kept else f"{url} may lose the study when it ends: its 'appendonly' is off"
        return Kept(storage, name, note, is_shared=True)


@contextmanager
def _told(url: str, extra: str) -> Iterator[Any]:
    """Turns errors of the first connection into one sentence."""
    try:
        yield
    except ImportError:
        hint = f"pip install 'autocompress[{extra}]'"
        raise UserError(f"the study cannot be kept on {url}: its client is not installed", hint) from None
    except UserError:
        raise
    except Exception as error:  # libraries of databases have errors of many kinds
        raise away(url, error, f"{STORAGE_PASSWORD} in the environment holds its password") from None

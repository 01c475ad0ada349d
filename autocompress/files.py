"""Files that other processes may read: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import platformdirs

from autocompress.errors import UserError


def cache_folder() -> Path:
    """The user's cache folder for what may be kept between runs; ``AUTOCOMPRESS_CACHE`` moves it. Made if missing.

    Raises:
        UserError: if it cannot be made or written.
    """
    folder = Path(os.environ.get("AUTOCOMPRESS_CACHE") or platformdirs.user_cache_dir("autocompress"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the cache folder {folder} cannot be written: {reason}", "set AUTOCOMPRESS_CACHE") from None
    return folder


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; on success it is renamed to ``path``, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: some writers choose their format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like :func:`atomic` for a folder. If another process put ``path`` there first, its folder stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        with suppress(OSError):  # not empty: the other process was first, with the same content
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no blanks. Equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def digest(*values: Any) -> str:
    """A 128-bit hexadecimal content key of JSON values (and ``bytes``), independent of the process."""
    hasher = blake2b(digest_size=16)
    for value in values:
        hasher.update(value if isinstance(value, bytes) else canonical_json(value).encode())
        hasher.update(b"\x00")
    return hasher.hexdigest()

"""Files that other processes may read: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
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
    """The one spelling of a JSON value: sorted keys, no blanks. Equal values give equal text.

    numpy scalars count as the Python numbers that they hold, and tuples as lists.

    Raises:
        TypeError: if ``value`` cannot be written as JSON: a tensor, an array, a set, a path, a mapping key that is not
            text, or a number that is not finite. A shortened or changing text in its place would give wrong keys.
    """
    return json.dumps(_plain(value, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*values: Any) -> str:
    """A 128-bit hexadecimal content key of JSON values (and ``bytes``), independent of the process.

    Each value goes in with its kind and length, so that no two lists of values look alike.

    Raises:
        TypeError: as :func:`canonical_json`.
    """
    hasher = blake2b(digest_size=16)
    for value in values:
        kind, content = (b"b", value) if isinstance(value, bytes) else (b"j", canonical_json(value).encode())
        hasher.update(kind + len(content).to_bytes(8, "big"))
        hasher.update(content)
    return hasher.hexdigest()


def _plain(value: Any, where: str) -> Any:
    """``value`` in Python's own JSON types; ``where`` is its place, for the error."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 equals 0.0, and has another text
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a content key cannot hold the mapping key {key!r}{_at(where)}: it is not text")
        return {key: _plain(item, f"{where}.{key}" if where else key) for key, item in value.items()}
    what = repr(value) if isinstance(value, float) else f"a {type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"a content key cannot hold {what}{_at(where)}: it cannot be written as JSON")


def _at(where: str) -> str:
    return f" at '{where}'" if where else ""

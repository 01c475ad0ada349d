"""Atomic writing of files (temporary name, sync, rename), and content keys."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from autocompress.errors import UserError

log = logging.getLogger("autocompress")
_warned: set[tuple[Path, str]] = set()
CACHE, LOCAL_CACHE = "AUTOCOMPRESS_CACHE", "AUTOCOMPRESS_CACHE_LOCAL"
OWN_VARIABLES = "AUTOCOMPRESS_"
STORAGE_PASSWORD = "AUTOCOMPRESS_STORAGE_PASSWORD"
"""The variable with the password of the server that keeps a study. Only the driver reads it."""
NOT_KEPT = "cannot be written, so results are not kept for later use"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of writing that say that the disk, a quota or the largest file size is reached."""
CACHED = ("baselines", "checkpoints", "stages", "verified")
"""Folders of the cache that every search writes to."""
_FULL_IN_WORDS = re.compile(
    "|".join([*(re.escape(os.strerror(number)) for number in FULL), rf"\(os error ({'|'.join(map(str, FULL))})\)"])
)
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EROFS})
"""Errors of file systems that do not support syncing a file or folder."""


def cache_folder(*parts: str) -> Path:
    """The user's cache folder, or a folder below it; made if missing.

    ``AUTOCOMPRESS_CACHE`` moves it. Where that is a URL, the folder is the local tier of a cache on
    shared storage, which ``AUTOCOMPRESS_CACHE_LOCAL`` moves. Folders below it get the same
    permissions, so that several users can share a cache.

    Raises:
        UserError: if the folder, or the cache folder itself, cannot be made or written.
    """
    named = os.environ.get(LOCAL_CACHE) if cache_url() is not None else os.environ.get(CACHE)
    folder = Path(named or platformdirs.user_cache_dir("autocompress"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_writable(folder)
        folder = shared_folder(folder, *parts)
        _require_writable(folder)
        return folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the cache folder {folder} cannot be written: {reason}", "set AUTOCOMPRESS_CACHE") from None


def own_variables() -> dict[str, str]:
    """The variables that autocompress reads, for its processes on other nodes; no secrets."""
    found = {name: value for name, value in os.environ.items() if name.startswith(OWN_VARIABLES)}
    found.pop(STORAGE_PASSWORD, None)
    return found


def cache_url() -> str | None:
    """The URL that ``AUTOCOMPRESS_CACHE`` names; None where it names a folder, or nothing."""
    named = os.environ.get(CACHE, "")
    return named if "://" in named else None


def check_cache() -> None:
    """Makes the folders of the cache that a search writes to.

    To be called before anything is trained.

    Raises:
        UserError: if one cannot be made or written; names the first one.
    """
    for name in CACHED:
        cache_folder(name)


def _require_writable(folder: Path) -> None:
    # os.access checks the real user by default, but files are opened as the effective user.
    effective = os.access in os.supports_effective_ids
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def shared_folder(folder: Path, *parts: str) -> Path:
    """A folder below ``folder``; missing ones are made with the permissions of ``folder``."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for part in parts:
        folder = folder / part
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        folder.chmod(mode)
    return folder


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``.

    On success it is renamed to ``path``, on an error removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, because some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like :func:`atomic`, for a folder.

    If another process made ``path`` first, that folder stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):
            sync(file)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Syncs a file, or the entries of a folder, to disk, so that they survive a loss of power.

    Raises:
        OSError: if the disk is full or broken.
    """
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(file)


def is_full_disk(error: BaseException) -> bool:
    """Whether ``error`` or its cause says that the disk is full.

    Errors of native libraries are recognised by their text.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if (isinstance(link, OSError) and link.errno in FULL) or _FULL_IN_WORDS.search(str(link)):
            return True
        link = link.__cause__ or link.__context__
    return False


def warn_once(about: Path, what: str, error: OSError) -> None:
    """Logs the warning ``<about> <what>: <error>``, once per process for each pair of them."""
    if (about, what) not in _warned:
        _warned.add((about, what))
        why = "there is no room left" if is_full_disk(error) else error.strerror or str(error)
        log.warning("%s %s: %s", about, what, why)


@contextmanager
def kept_if_possible(folder: Path) -> Iterator[None]:
    """Ignores errors of writing to ``folder``, with one warning.

    For files that can be made again.
    """
    try:
        yield
    except OSError as error:
        warn_once(folder, NOT_KEPT, error)


@contextmanager
def full_disk_told(folder: Path, hint: str = "make room and try again") -> Iterator[None]:
    """Turns the error of a full disk into a UserError that names the folder.

    Raises:
        UserError: in place of such an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        place = error.filename if isinstance(error, OSError) and error.filename else folder
        raise UserError(f"there is no room left to write to {place}", hint) from error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def canonical_json(value: Any) -> str:
    """A JSON value in canonical form: sorted keys, no blanks. Equal values give equal text.

    numpy scalars count as the Python numbers that they hold, and tuples as lists.

    Raises:
        TypeError: if ``value`` cannot be written as JSON: a tensor, an array, a set, a path, a
            mapping key that is not text, or a number that is not finite. Converting these to text
            could give equal keys for different values.
    """
    return json.dumps(_plain(value, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*values: Any) -> str:
    """A 128-bit hexadecimal content key of JSON values (and ``bytes``), independent of the process.

    Each value is hashed with its kind and length, so that different lists give different keys.

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
    """``value`` in Python's JSON types; ``where`` is its place, for the error."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 becomes 0.0: they are equal, but have different text
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


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys: ``device.threads``. Empty mappings are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found

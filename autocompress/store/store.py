"""The store of results by content key, shared by workers, trials and runs.

It holds only safetensors and JSON.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from autocompress.files import atomic_folder, cache_folder, kept_if_possible, shared_folder, warn_once
from autocompress.locks import FileLock
from autocompress.store.entries import RECORD, TENSORS, Damaged, read_entry, record_text
from autocompress.store.pins import PINS, Pins
from autocompress.store.tier import Tier, shared_tier

__all__ = ["RECORD", "TENSORS", "Store", "pack", "save_tensors", "unpack"]

MAKING = ".making"
STALE_S = 3600.0
"""Age from which a temporary folder or lock file is abandoned; writing takes seconds."""
GRACE_S = 60.0
"""Entries used within this time are not removed, because another worker may be reading them."""
log = logging.getLogger("autocompress")


@dataclass
class Store:
    """Entries are folders named by their key, written once, atomically, and never changed.

    A damaged entry is removed when it is read, so that it is made again. If an entry cannot be
    written, one warning is logged and the work continues.

    Attributes:
        folder: folder of the entries; by default the cache folder of the user.
        most_gigabytes: size above which the least recently used entries are removed;
            ``AUTOCOMPRESS_CACHE_GB`` sets it.
        pinning: entries that are read or written while this is set are pinned for the lifetime of
            this object.
        hits, misses: number of entries that this object found, and that it did not find, for the
            report.
        tier: the cache on the URL in ``AUTOCOMPRESS_CACHE``; None if that is a folder or not set.
    """

    folder: Path = field(default_factory=lambda: cache_folder("stages"))
    most_gigabytes: float = field(default_factory=lambda: float(os.environ.get("AUTOCOMPRESS_CACHE_GB", "10")))
    pinning: bool = False
    hits: int = 0
    misses: int = 0
    tier: Tier | None = field(default_factory=shared_tier)

    def __post_init__(self) -> None:
        self._pins = Pins(self.folder)

    @property
    def pinned(self) -> frozenset[str]:
        """The keys that this object pins."""
        return self._pins.own

    def has(self, key: str) -> bool:
        """Whether an entry exists; it may be damaged."""
        return self.is_here(key) or (self.tier is not None and self.tier.has(key))

    def is_here(self, key: str) -> bool:
        """Whether the folder on the local disk has an entry; it may be damaged."""
        return os.path.isfile(self.folder / key / RECORD)  # noqa: PTH113 (Path.is_file raises in a folder without permission)

    def get(self, key: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Tensors and record of an entry; None if it is missing or damaged."""
        entry = self.folder / key
        if self.tier is not None and not self.is_here(key) and (found := self.tier.get(key)) is not None:
            self._keep(key, record_text(key, found[0], found[1]), found[0])
            self.hits += 1
            return found
        self._pin(key)
        identity = _identity(entry)
        try:
            tensors, record = read_entry(entry, key)
        except (OSError, Damaged) as error:
            self.misses += 1
            if isinstance(error, Damaged):
                self._discard(entry, identity, str(error))
            elif not isinstance(error, FileNotFoundError):
                warn_once(self.folder, "cannot be read", error)
            return None
        with suppress(OSError):
            os.utime(entry)  # the least recently used entries are removed first
        self.hits += 1
        return tensors, record

    def put(self, key: str, tensors: dict[str, torch.Tensor], record: Any) -> None:
        """Writes an entry, unless it exists; then removes entries over the limit."""
        if self.is_here(key):
            return
        text = record_text(key, tensors, record)
        self._keep(key, text, tensors)
        if self.tier is not None:
            self.tier.put(key, tensors, text)

    def _keep(self, key: str, text: str, tensors: dict[str, torch.Tensor]) -> None:
        """Writes an entry on the local disk."""
        entry = self.folder / key
        identity = _identity(entry)
        if identity is not None and not self.is_here(key):
            self._discard(entry, identity, f"it has no {RECORD}")
        self._pin(key)
        with kept_if_possible(self.folder):
            with atomic_folder(entry) as temporary:
                save_tensors(tensors, temporary / TENSORS)
                (temporary / RECORD).write_text(text, encoding="utf-8")
            self._trim()

    @contextmanager
    def making(self, key: str, pause: Callable[[], None] | None = None) -> Iterator[None]:
        """Holds the lock for making the entry ``key``. Look for the entry again inside the block.

        Args:
            key: key of the entry.
            pause: called while another process makes the entry. If the caller holds the machine
                lock, ``pause`` must let other processes measure. Otherwise there is a deadlock if
                the other process waits for a measurement.
        """
        lock: FileLock | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(shared_folder(self.folder, MAKING) / key)
            lock.acquire(pause=pause or (lambda: None))
        except OSError as error:  # the entry may then be made twice
            warn_once(self.folder / MAKING, "cannot be locked", error)
        try:
            yield
        finally:
            if lock is not None:
                lock.release(remove=True)

    def made(
        self,
        key: str,
        make: Callable[[], Any],
        pause: Callable[[], None] | None = None,
        is_whole: Callable[[Any], bool] | None = None,
    ) -> Any:
        """The state of the entry ``key`` (tensors and JSON values, see :func:`pack`).

        If it is missing, one process makes it with ``make``. The others wait and call ``pause``. A
        state for which ``is_whole`` is false is returned and not stored.
        """
        found = self.get(key) if self.has(key) else None
        if found is None:
            with self.making(key, pause):
                found = self.get(key) if self.has(key) else None
                if found is None:
                    state = make()
                    tensors, record = pack(state)
                    if is_whole is None or is_whole(state):
                        self.put(key, tensors, {"state": record})
                    found = tensors, {"state": record}
        return unpack(found[0], found[1]["state"])

    def _pin(self, key: str) -> None:
        if not self.pinning:
            return
        try:
            self._pins.add(key)
        except OSError as error:
            warn_once(self.folder / PINS, "cannot be written", error)

    def _discard(self, entry: Path, identity: tuple[int, int, int] | None, why: str) -> None:
        """Removes a damaged entry, unless another process has replaced it."""
        if identity is None or identity != _identity(entry):
            return
        try:
            _remove(entry)
        except FileNotFoundError:
            return  # another process was first
        except OSError as error:
            warn_once(entry, f"is damaged ({why}) and cannot be removed", error)
            return
        log.warning("a damaged entry of the cache is made again: %s (%s)", entry, why)

    def _trim(self) -> None:
        """Removes entries over the limit, and abandoned files of ended processes."""
        now, total = time.time(), 0
        entries: list[tuple[float, int, Path]] = []
        for entry in self.folder.iterdir():
            if entry.name in (MAKING, PINS):
                continue
            with suppress(OSError):
                modified, size = _facts(entry)
                if entry.name.startswith("."):  # being written or removed by some process
                    if now - modified > STALE_S:
                        shutil.rmtree(entry, ignore_errors=True)
                    continue
                total += size
                entries.append((entry.stat().st_mtime, size, entry))
        self._drop_stale_locks(now)
        if total <= self.most_gigabytes * 1e9:
            return
        pinned = self._pins.live()
        for modified, size, entry in sorted(entries):
            if total <= self.most_gigabytes * 1e9 or modified > now - GRACE_S:
                break
            if entry.name not in pinned:
                with suppress(OSError):
                    _remove(entry)
                    total -= size

    def _drop_stale_locks(self, now: float) -> None:
        with suppress(OSError):
            for path in (self.folder / MAKING).iterdir():
                if now - path.stat().st_mtime > STALE_S and path.suffix == "":
                    lock = FileLock(path)
                    if lock.acquire(seconds=0):
                        lock.release(remove=True)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Identifies a file or folder, to notice a replacement; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns  # inode numbers of removed files are reused


def _facts(entry: Path) -> tuple[float, int]:
    """Time of the last change of ``entry`` (seconds since the epoch), and its size in bytes."""
    status = entry.stat()
    files = [file.stat() for file in entry.rglob("*")] if entry.is_dir() else [status]
    return max([status.st_mtime, *(file.st_mtime for file in files)]), sum(file.st_size for file in files)


def _remove(entry: Path) -> None:
    """Removes an entry atomically, so that no reader finds a part of it."""
    away = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}")
    entry.rename(away)
    if away.is_dir() and not away.is_symlink():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink()


def save_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Writes ``tensors`` from any device as safetensors.

    Raises:
        OSError: if the file cannot be written.
    """
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(own, file)
    except safetensors.SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(file)) from error
    # safetensors makes files that only their owner can read. They get the read permissions of the
    # folder.
    file.chmod(0o600 | (file.parent.stat().st_mode & 0o044))


def pack(state: Any, tensors: dict[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Splits nested dicts and lists into tensors and JSON.

    Each tensor is replaced by ``{"$tensor": name}``.
    """
    tensors = {} if tensors is None else tensors
    if isinstance(state, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = state
        return tensors, {"$tensor": name}
    if isinstance(state, dict):
        return tensors, {str(key): pack(value, tensors)[1] for key, value in state.items()}
    if isinstance(state, list | tuple):
        return tensors, [pack(value, tensors)[1] for value in state]
    return tensors, state


def unpack(tensors: dict[str, torch.Tensor], record: Any) -> Any:
    """The reverse of :func:`pack`; tuples come back as lists."""
    if isinstance(record, dict):
        if set(record) == {"$tensor"}:
            return tensors[record["$tensor"]]
        return {key: unpack(tensors, value) for key, value in record.items()}
    if isinstance(record, list):
        return [unpack(tensors, value) for value in record]
    return record

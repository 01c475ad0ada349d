"""The content-keyed store: results of stages, shared by workers, trials and runs. Safetensors and JSON only."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from autocompress.files import atomic_folder, cache_folder
from autocompress.locks import FileLock

TENSORS, RECORD = "tensors.safetensors", "record.json"
MAKING = ".making"
log = logging.getLogger("autocompress")


@dataclass
class Store:
    """Entries are folders named by their key. An entry is written once, atomically, and never changed.

    Attributes:
        folder: where entries lie; the user's cache folder by default.
        most_gigabytes: least recently used entries beyond this are removed; ``AUTOCOMPRESS_CACHE_GB`` sets it.
        hits, misses: of this object, for the report.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "stages")
    most_gigabytes: float = field(default_factory=lambda: float(os.environ.get("AUTOCOMPRESS_CACHE_GB", "10")))
    hits: int = 0
    misses: int = 0

    def has(self, key: str) -> bool:
        """Whether an entry is there."""
        return (self.folder / key / RECORD).exists()

    def get(self, key: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Tensors and record of an entry, or None. An entry that is damaged or was just removed counts as absent."""
        entry = self.folder / key
        try:
            record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(entry / TENSORS)
        except (OSError, ValueError, safetensors.SafetensorError):
            self.misses += 1
            return None
        with suppress(OSError):
            os.utime(entry)  # least recently used goes first
        self.hits += 1
        return tensors, record

    def put(self, key: str, tensors: dict[str, torch.Tensor], record: Any) -> None:
        """Writes an entry, unless one is there; then removes what is over the limit."""
        if self.has(key):
            return
        with atomic_folder(self.folder / key) as entry:
            save_tensors(tensors, entry / TENSORS)
            (entry / RECORD).write_text(json.dumps(record), encoding="utf-8")
        self._trim()

    @contextmanager
    def making(self, key: str, pause: Callable[[], None] | None = None) -> Iterator[None]:
        """Held by the one process that makes the entry ``key``; look again for the entry once it is held.

        Args:
            key: of the entry.
            pause: called while another process makes it. Who holds the machine's lock lets measurements go first there:
                the other steps aside for them, and both would wait for ever.
        """
        folder = self.folder / MAKING
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / key)
        try:
            lock.acquire(pause=pause or (lambda: None))
        except OSError as error:  # what takes long may then be made twice
            log.warning("%s cannot be locked: %s", lock.path, error)
        try:
            yield
        finally:
            lock.release(remove=True)

    def _trim(self) -> None:
        entries = []
        for entry in self.folder.iterdir():
            if entry.name == MAKING:
                continue
            with suppress(OSError):
                entries.append((entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir()), entry))
        total = sum(size for _, size, _ in entries)
        for modified, size, entry in sorted(entries):
            # A minute's grace: another worker may be reading what it has just found.
            if total <= self.most_gigabytes * 1e9 or modified > time.time() - 60:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= size


def save_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Writes ``tensors`` as safetensors, from whatever device."""
    # Clones: safetensors refuses tensors that share memory (tied weights).
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(own, file)


def pack(state: Any, tensors: dict[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Splits nested dicts and lists into tensors and JSON: each tensor is replaced by ``{"$tensor": name}``."""
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

"""Pins: entries of the store that a running process needs; pins end with the process."""

from __future__ import annotations

import uuid
from pathlib import Path

from autocompress.files import shared_folder
from autocompress.locks import FileLock

PINS = ".pins"


class Pins:
    """The pins of one store object, and those of all processes.

    Each object with pins has a file in ``<store>/.pins``, one key per line, and holds a lock on it.
    A file that can be locked belongs to a process that has ended.

    Args:
        store: folder of the store.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._keys: set[str] = set()
        self._lock: FileLock | None = None

    @property
    def own(self) -> frozenset[str]:
        """The keys of this object."""
        return frozenset(self._keys)

    def add(self, key: str) -> None:
        """Pins the entry ``key`` for the lifetime of this object.

        Raises:
            OSError: if the pin cannot be written.
        """
        if key in self._keys:
            return
        if self._lock is None:
            self._store.mkdir(parents=True, exist_ok=True)
            lock = FileLock(shared_folder(self._store, PINS) / uuid.uuid4().hex)
            lock.acquire()
            self._lock = lock
        with self._lock.path.open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")
        self._keys.add(key)

    def live(self) -> set[str]:
        """The keys that running processes pin. Files of ended processes are removed."""
        found = set(self._keys)
        own = None if self._lock is None else self._lock.path
        try:
            files = [path for path in (self._store / PINS).iterdir() if path.suffix == "" and path != own]
        except OSError:
            return found
        for path in files:
            lock = FileLock(path)
            try:
                if lock.acquire(seconds=0):
                    lock.release(remove=True)
                else:
                    found.update(path.read_text(encoding="utf-8").split())
            except OSError:
                continue  # the file was just removed, or belongs to another user
        return found

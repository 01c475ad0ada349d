"""FileLock: a lock on a file, by ``flock`` if the file system has it, else by leases."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.locks.kernel import KernelLock, Refused
from autocompress.locks.kinds import Kind

if TYPE_CHECKING:
    from autocompress.locks.leases import LeaseLock

LOOK_AGAIN_S = 0.05
"""Pause in seconds between attempts of a process that must not block in the kernel."""
log = logging.getLogger("autocompress")


class FileLock:
    """A lock between processes, shared or exclusive; it is freed when its process ends.

    An object holds one lock at a time, for one thread at a time. Two objects for one file exclude
    each other, also in one process. A forked child does not inherit locks.

    Args:
        path: path of the lock file. Its folder must exist. The file is made if it is missing, and
            never written. With ``flock``, read access is enough for a file of another user.
        mode: permissions of a new lock file; None for those of the umask.
    """

    def __init__(self, path: Path, *, mode: int | None = None) -> None:
        self.path = path
        self._mode = mode
        self._kernel: KernelLock | None = None
        self._leases: LeaseLock | None = None
        self._is_held = False
        _open.add(self)

    def acquire(
        self, kind: Kind = "exclusive", *, seconds: float | None = None, pause: Callable[[], None] | None = None
    ) -> bool:
        """Waits for the lock and takes it.

        Args:
            kind: "shared" or "exclusive".
            seconds: longest wait; 0 for one attempt, None for no limit.
            pause: called repeatedly while another holder has it.

        Returns:
            Whether the lock is held now.

        Raises:
            OSError: if the lock file cannot be made or opened.
        """
        if self._is_held:
            raise RuntimeError(f"{self.path} is held by this object already")
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._take(kind, wait=deadline is None and pause is None):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            if pause is not None:
                pause()
            time.sleep(LOOK_AGAIN_S)
        self._is_held = True
        return True

    def release(self, *, remove: bool = False) -> None:
        """Frees the lock; does nothing where it is not held.

        Args:
            remove: also removes the lock file. Waiting processes make a new one.
        """
        if not self._is_held:
            return
        self._is_held = False
        backend = self._leases or self._kernel
        assert backend is not None
        backend.free(remove=remove)

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._is_held

    @contextmanager
    def held(self, kind: Kind = "exclusive", *, pause: Callable[[], None] | None = None) -> Iterator[None]:
        """Holds the lock; waits for it without a limit."""
        self.acquire(kind, pause=pause)
        try:
            yield
        finally:
            self.release()

    def worth_waiting(self) -> float:
        """Seconds to wait for a lock of a holder that may have ended; 0 for locks of the kernel."""
        return 0.0 if self._leases is None else self._leases.worth_waiting()

    def close(self) -> None:
        """Frees the lock and closes the file; :meth:`acquire` opens it again."""
        self._is_held = False
        for backend in (self._kernel, self._leases):
            if backend is not None:
                backend.close()
        self._kernel = None

    def __del__(self) -> None:
        if hasattr(self, "_is_held"):  # not where __init__ raised
            self.close()

    def _take(self, kind: Kind, *, wait: bool) -> bool:
        if self._leases is None:
            try:
                self._kernel = self._kernel or KernelLock(self.path, self._mode)
                return self._kernel.take(kind, wait=wait)
            except Refused as refusal:
                from autocompress.locks.leases import LeaseLock  # here, because it adds a hook to every fork

                _say_once(self.path.parent, refusal)
                self.close()
                self._leases = LeaseLock(self.path)
        return self._leases.take(kind)

    def _forget(self) -> None:
        """Drops the lock of the parent, in a forked child."""
        self._is_held = False
        if self._kernel is not None:
            self._kernel.close()
        self._kernel = self._leases = None


_open: weakref.WeakSet[FileLock] = weakref.WeakSet()
_said: set[Path] = set()


def _say_once(folder: Path, refusal: Refused) -> None:
    if folder not in _said:
        _said.add(folder)
        log.warning("%s cannot be locked by the kernel (%s): leases are used", folder, refusal)


def _forget_in_child() -> None:
    """Closes inherited lock files in a forked child, such as a data loader's worker.

    Open files would hold the lock after the parent freed it.
    """
    for lock in list(_open):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

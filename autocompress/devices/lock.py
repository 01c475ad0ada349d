"""MachineLock: one measurement at a time on a machine; trainings pause for it.

It consists of three file locks, which the kernel releases when their holder dies:

- ``machine``: shared by trainings, held alone by a measurement.
- ``queue``: must be taken before ``machine``. A measurement holds it while it waits. A training
  notices that, and gives way between two batches.
- ``aside``: shared by the waiting trainings. A measurement only joins the queue when no training
  waits. So a training waits for the measurements that came before it, and never for a stream of
  new ones.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.locks import FileLock, Kind, machine_files
from autocompress.locks.place import FOR_ALL

log = logging.getLogger("autocompress")

EXCLUSIVE_SECONDS = 2.0
"""A measurement releases the lock after this time, or after one sitting that takes longer."""


class MachineLock:
    """The machine's lock: shared by trainings, exclusive for measurements.

    One object serves one thread, and holds one lock at a time.

    There is one lock for all users of a machine. Where the lock files cannot be used, nothing is
    locked and a warning says so.

    Args:
        folder: folder of the lock files; by default a folder that all users of the machine share
            (``locks.place``). Processes that name the same folder on the same machine exclude each
            other.

    Raises:
        UserError: if the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        paths = machine_files("machine", "queue", "aside", folder=folder)
        self._machine, self._queue, self._aside = (FileLock(path, mode=FOR_ALL) for path in paths)
        self._folder = paths[0].parent.resolve()
        self._is_usable = self._check()
        self._held: Kind | None = None
        self._thread = 0
        self.closed = False
        _handles.add(self)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Holds the lock shared, for training; call :meth:`breathe` between batches."""
        self._take("shared")
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the lock alone, for measuring; the caller keeps to ``EXCLUSIVE_SECONDS``.

        Taking the lock waits until every training has given way.
        """
        self._take("exclusive")
        try:
            yield
        finally:
            self._release()

    def breathe(self) -> None:
        """Releases the lock for a waiting measurement, and returns when the measurement has ended.

        It takes microseconds if none waits, and does nothing if the shared lock is not held.
        """
        if self._held == "shared" and self._somebody_waits():
            self._release()
            self._take("shared")

    def close(self) -> None:
        """Releases the locks and closes the files; the object cannot be used again."""
        self.closed, self._held = True, None
        for lock in (self._machine, self._queue, self._aside):
            lock.close()

    def __del__(self) -> None:
        if hasattr(self, "closed"):  # missing if __init__ raised
            self.close()

    def _check(self) -> bool:
        """Whether the lock files can be opened and locked at all."""
        try:
            for lock in (self._machine, self._queue, self._aside):
                if lock.acquire("shared", seconds=0):
                    lock.release()
        except OSError as error:
            log.warning(
                "'%s' cannot be locked (%s): a latency measured beside a training will be too high", lock.path, error
            )
            return False
        return True

    def _take(self, kind: Kind) -> None:
        if self.closed:
            raise RuntimeError("this lock is closed; a forked process makes its own")
        for other in list(_handles):  # this object among them
            if other._held and other._folder == self._folder and other._thread == threading.get_ident():
                raise RuntimeError(f"the machine's lock is held here already ({other._held}); this would wait for ever")
        if self._is_usable and kind == "shared":
            with self._aside.held("shared"), self._queue.held("shared"):
                self._machine.acquire("shared")
        elif self._is_usable:
            with self._aside.held():
                pass  # no training waits any more
            with self._queue.held():
                self._machine.acquire()
        self._held, self._thread = kind, threading.get_ident()

    def _release(self) -> None:
        self._machine.release()
        self._held = None

    def _somebody_waits(self) -> bool:
        if not self._is_usable:
            return False
        if not self._queue.acquire("shared", seconds=0):
            return True
        self._queue.release()
        return False


_handles: weakref.WeakSet[MachineLock] = weakref.WeakSet()


def _close_in_child() -> None:
    """Closes the files in a forked child, which does not hold the locks of its parent."""
    for handle in list(_handles):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

"""MachineLock: one measurement at a time on a machine, and training that steps aside for it.

Three lock files, locked by the kernel (``flock``), which frees them when their holder dies, however it dies:

- ``machine``: shared by trainings, held alone by a measurement.
- ``queue``: everybody passes it to get at ``machine``. A measurement holds it while it waits; that a training sees, and
  steps aside between two batches.
- ``aside``: shared by the trainings that wait. A measurement joins the queue only when there are none, so a training
  waits for those measurements that were there before it, and never for a stream of new ones.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from autocompress.files import cache_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("autocompress")

EXCLUSIVE_SECONDS = 2.0
"""A measurement gives way after this long."""


class _Files(NamedTuple):
    """Descriptors of the three lock files."""

    machine: int
    queue: int
    aside: int


class MachineLock:
    """Shared by trainings, exclusive for measurements. One object serves one thread; it holds one lock at a time.

    Where the system has no ``flock`` (Windows, some network folders) nothing is locked, and a warning says so.

    Args:
        folder: where the lock files lie; the user's cache folder by default. Processes that name the same folder on the
            same machine exclude each other.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or cache_folder() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        # The node's name, since a cache folder may be shared by several machines.
        files = [_open(folder / f"{platform.node()}.{name}") for name in ("machine", "queue", "aside")]
        self._files = None if None in files else _Files(*(file for file in files if file is not None))
        self._folder = folder.resolve()
        self._held: str | None = None
        self._thread = 0
        self.closed = False
        _handles.add(self)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held while training; call :meth:`breathe` between batches."""
        self._take("shared")
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held while measuring, for ``EXCLUSIVE_SECONDS`` at most; waits until every training has stepped aside."""
        self._take("exclusive")
        try:
            yield
        finally:
            self._release()

    def breathe(self) -> None:
        """Steps aside if a measurement waits, and returns once it is over; costs microseconds if none does. Without the
        shared lock there is nothing to step aside with."""
        if self._held == "shared" and self._somebody_waits():
            self._release()
            self._take("shared")

    def close(self) -> None:
        """Frees what is held and closes the files; the lock cannot be taken again."""
        files, self._files = self._files, None
        self.closed, self._held = True, None
        for file in files or ():
            os.close(file)

    def __del__(self) -> None:
        if hasattr(self, "closed"):  # not where __init__ raised
            self.close()

    def _take(self, kind: str) -> None:
        if self.closed:
            raise RuntimeError("this lock is closed; a forked process makes its own")
        for other in list(_handles):  # this object among them
            if other._held and other._folder == self._folder and other._thread == threading.get_ident():
                raise RuntimeError(f"the machine's lock is held here already ({other._held}); this would wait for ever")
        if self._files is not None:
            if kind == "shared":
                _take_shared(self._files)
            else:
                _take_exclusive(self._files)
        self._held, self._thread = kind, threading.get_ident()

    def _release(self) -> None:
        if self._files is not None and self._held is not None:
            fcntl.flock(self._files.machine, fcntl.LOCK_UN)
        self._held = None

    def _somebody_waits(self) -> bool:
        if self._files is None:
            return False
        try:
            fcntl.flock(self._files.queue, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._files.queue, fcntl.LOCK_UN)
        return False


def _take_shared(files: _Files) -> None:
    with _flock(files.aside, fcntl.LOCK_SH), _flock(files.queue, fcntl.LOCK_SH):
        fcntl.flock(files.machine, fcntl.LOCK_SH)


def _take_exclusive(files: _Files) -> None:
    with _flock(files.aside, fcntl.LOCK_EX):
        pass  # no training waits any more
    with _flock(files.queue, fcntl.LOCK_EX):
        fcntl.flock(files.machine, fcntl.LOCK_EX)


@contextmanager
def _flock(file: int, operation: int) -> Iterator[None]:
    fcntl.flock(file, operation)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


_handles: weakref.WeakSet[MachineLock] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child (a data loader's worker) shares its parent's open files; were they left open, the lock would
    outlive the parent. Closing them here frees nothing of the parent's."""
    for handle in list(_handles):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _open(path: Path) -> int | None:
    """A descriptor of a lock file that can be locked, or None with a warning."""
    if fcntl is None:
        log.warning("this system has no flock: a latency measured beside a training will be too high")
        return None
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return file  # held by another process: so it can be locked
    except OSError as error:
        os.close(file)
        log.warning("'%s' cannot be locked (%s): a latency measured beside a training will be too high", path, error)
        return None
    return file

"""Locks by leases of the ``filelock`` package, for systems without ``flock``.

These are some Lustre, NFS and FUSE mounts, and Windows.

A lease is a marker file that its holder renews. A marker of an ended process of this machine is
taken over at once. A marker of another machine is taken over when it was not renewed for
``LEASE_S``.
"""

from __future__ import annotations

import logging
import socket
import uuid
from contextlib import suppress
from pathlib import Path

import filelock
import psutil

from autocompress.locks.kinds import Kind

LEASE_S = 30.0
"""Seconds of a lease, equal for all processes; longer than any call that holds the GIL."""
RENEWED_S = 5.0
log = logging.getLogger("autocompress")


class LeaseLock:
    """A shared and exclusive lock made of leases.

    ``<path>.lease`` is the gate. An exclusive holder holds it, and a shared holder only while it
    joins. Each shared holder has its own lease in ``<path>.holders/``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._holders = path.with_name(path.name + ".holders")
        # Kept between attempts, because a lease object records since when a marker was not renewed.
        self._gate = _lease(path.with_name(path.name + ".lease"))
        self._others: dict[Path, filelock.SoftFileLease] = {}
        self._own: filelock.SoftFileLease | None = None

    def take(self, kind: Kind) -> bool:
        """Tries once; False where another holder has the lock.

        Raises:
            OSError: if markers cannot be written.
        """
        if not _tried(self._gate):
            return False
        try:
            if kind == "exclusive":
                if self._is_shared():
                    self._gate.release()
                    return False
                self._own = self._gate
            else:
                self._holders.mkdir(exist_ok=True)
                own = _lease(self._holders / uuid.uuid4().hex)
                own.acquire()
                self._own = own
                self._gate.release()
        except BaseException:
            self._gate.release()
            raise
        return True

    def free(self, *, remove: bool = False) -> None:
        """Frees the lock; with ``remove`` also removes all its files."""
        own, self._own = self._own, None
        if own is None:
            return
        if remove:
            with suppress(OSError):
                self._path.unlink()
            with suppress(OSError):
                self._holders.rmdir()
        own.release()

    def close(self) -> None:
        """Frees the lock."""
        self.free()

    def worth_waiting(self) -> float:
        """Seconds until a lost lock is free; 0 if its holder is a running process of this
        machine."""
        with suppress(OSError, ValueError):
            marker = Path(self._gate.lock_file).read_text(encoding="utf-8", errors="replace")
            holder = self._gate.pid
            if holder is not None and socket.gethostname() in marker and psutil.pid_exists(holder):
                return 0.0
        return LEASE_S + RENEWED_S

    def _is_shared(self) -> bool:
        """Whether there is a shared holder; removes markers of ended ones. Needs the gate."""
        try:
            there = set(self._holders.iterdir())
        except FileNotFoundError:
            return False
        self._others = {path: lease for path, lease in self._others.items() if path in there}
        for marker in there:
            lease = self._others.setdefault(marker, _lease(marker))
            if not _tried(lease):
                return True
            lease.release()
        return False


def _lease(path: Path) -> filelock.SoftFileLease:
    return filelock.SoftFileLease(
        path,
        lease_duration=LEASE_S,
        heartbeat_interval=RENEWED_S,
        on_compromise=_lost,
        thread_local=False,
        is_singleton=False,
    )


def _lost(loss: filelock.LeaseCompromise) -> None:
    log.warning("the lock %s was lost to another process (%s)", loss.lock_file, loss.reason)


def _tried(lease: filelock.SoftFileLease) -> bool:
    try:
        lease.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True

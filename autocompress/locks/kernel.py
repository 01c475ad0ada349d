"""Locks by ``flock``, which the kernel frees when the process ends for any reason."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from autocompress.locks.kinds import Kind

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST_REOPENINGS = 16
"""Attempts at a lock file that is replaced while waiting; then the last file is used.

Some network file systems give a file a new inode number at each access.
"""


class Refused(Exception):
    """The system or the file system has no ``flock``; the message is the reason."""


class KernelLock:
    """An open lock file.

    Args:
        path: path of the lock file; made if it is missing. It is never written, so a file of
            another user can be used.
        mode: permissions of a new file; None for those of the umask.

    Raises:
        OSError: if the file cannot be made or opened, or is not a regular file.
        Refused: where there is no ``flock``.
    """

    def __init__(self, path: Path, mode: int | None) -> None:
        if fcntl is None:
            raise Refused("this system has no flock")
        self._path, self._mode = path, mode
        self._file: int | None = open_lock_file(path, mode)

    def take(self, kind: Kind, *, wait: bool) -> bool:
        """Takes the lock; False where another holder has it and ``wait`` is off.

        Raises:
            Refused: if the file system does not support locks.
        """
        operation = (fcntl.LOCK_SH if kind == "shared" else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        for left in reversed(range(MOST_REOPENINGS)):
            if self._file is None:
                self._file = open_lock_file(self._path, self._mode)
            try:
                fcntl.flock(self._file, operation)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.EBADF:  # NFS: an exclusive lock needs a writable file
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._path)) from error
                raise Refused(error.strerror or str(error)) from error
            if not left or self._is_current(self._file):
                break
            self.close()  # the file was replaced while this process waited; the new one must be locked
        return True

    def free(self, *, remove: bool = False) -> None:
        """Frees the lock; with ``remove`` also removes the file, which waiting processes notice."""
        if self._file is None:
            return
        if remove:
            _remove(self._path)
            self.close()
        else:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file, which frees the lock; in a forked child, the parent keeps its lock."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _is_current(self, file: int) -> bool:
        """Whether the open file is still the file at the path."""
        try:
            there = self._path.lstat()
        except OSError:
            return False
        own = os.fstat(file)
        return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def open_lock_file(path: Path, mode: int | None) -> int:
    """A descriptor of ``path``, made if missing; read-only for a file of another user.

    Links are not followed, because in a shared folder a link could lead to any file of this user.

    Raises:
        OSError: if it cannot be made or opened, or is not a regular file.
    """
    # No O_CREAT for an existing file: Linux refuses O_CREAT on a file of another user in a sticky
    # folder (fs.protected_regular). O_NONBLOCK, so that opening a named pipe does not hang.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        try:
            file = os.open(path, os.O_RDWR | flags)
        except FileNotFoundError:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666 if mode is None else mode)
            except FileExistsError:
                continue
            if mode is not None:
                os.fchmod(file, mode)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            file = os.open(path, os.O_RDONLY | flags)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise

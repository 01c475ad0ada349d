"""Makes ``flock`` fail, as on some file systems, for this process and for its children."""

from __future__ import annotations

import errno
import fcntl
import os


def flock(file: int, operation: int) -> None:
    """Raises the error of a mount without locks."""
    del file, operation
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def install() -> None:
    """Makes ``flock`` fail in this process from now on."""
    fcntl.flock = flock  # type: ignore[assignment]

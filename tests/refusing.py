"""Makes ``flock`` fail, as on some file systems, for this process and for its children."""

from __future__ import annotations

import errno
import fcntl
import os


def flock(file: int, operation: int) -> None:
    """What a mount without locks answers."""
    del file, operation
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def install() -> None:
    """From here on ``flock`` is refused in this process."""
    fcntl.flock = flock  # type: ignore[assignment]

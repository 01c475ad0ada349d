"""``flock`` as it fails on file systems that refuse it, for this process and for those that tests
start.
"""

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

"""Locks between processes, all by one class: :class:`FileLock`.

``kernel`` uses ``flock``. ``leases`` is the fallback for file systems without it and for Windows.
``place`` gives the folder of the locks that all users of a machine share.
"""

from __future__ import annotations

from autocompress.locks.filelocks import FileLock, Kind
from autocompress.locks.place import machine_files

__all__ = ["FileLock", "Kind", "machine_files"]

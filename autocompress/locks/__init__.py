"""Locks between processes: one class, :class:`FileLock`, for every file that processes lock.

``kernel`` uses ``flock``. ``leases`` is the fallback for file systems that refuse it and for
Windows. ``place`` says where the locks lie that all users of a machine share.
"""

from __future__ import annotations

from autocompress.locks.filelocks import FileLock, Kind
from autocompress.locks.place import machine_files

__all__ = ["FileLock", "Kind", "machine_files"]

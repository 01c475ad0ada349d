"""The journal of a study on disk; a line is written completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from autocompress.files import is_full_disk, warn_once
from autocompress.locks import FileLock

WAIT_FOR_ROOM_S = 30.0
"""Seconds to wait for room on a full disk before giving up."""
LOOK_AGAIN_S = 1.0
_CHUNK = 65536


class Journal(JournalFileBackend):
    """Optuna's journal file, with two differences.

    Its lock is freed at once when its process ends; Optuna's lock takes 30 s. And it removes
    incomplete lines of killed processes and full disks, which would make the next line, and so the
    study, unreadable.

    Args:
        file: file of the journal. The lock file is next to it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._together = 0
        self._pending: list[dict[str, Any]] = []
        self._file_lock = FileLock(file.with_suffix(".lock"))
        super().__init__(str(file), lock_obj=_OptunasLock(self._file_lock))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Collects logs that are appended within the block, and writes them together at its end.

        So there is one wait for the disk instead of twenty. Other processes cannot write meanwhile.
        Blocks may be nested, in one thread at a time.

        Raises:
            OSError: if the disk stays full. Nothing is written then, and the storage must be opened
                again.
        """
        if not self._together:
            self._file_lock.acquire()
        self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                try:
                    self._write_pending()
                finally:
                    self._pending = []
                    self._file_lock.release()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The logs from a number on, including those that are not written yet."""
        if not self._pending:
            yield from super().read_logs(log_number_from)
            return
        if log_number_from <= self._written:
            yield from super().read_logs(log_number_from)
        yield from self._pending[max(0, log_number_from - self._written) :]

    @property
    def _written(self) -> int:
        """Number of logs in the part of the file that was read."""
        return max(self._log_number_offset)

    def _write_pending(self) -> None:
        """Writes pending logs, and drops positions of earlier logs, which are not read again."""
        count = self._written
        end = self._log_number_offset[count]
        if self._pending:
            end += self._write(self._pending)
            count += len(self._pending)
        self._log_number_offset = {0: 0, count: end}

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends a line for each log, or none after an error.

        Raises:
            OSError: if the disk stays full.
        """
        if self._together:
            self._pending += json.loads(json.dumps(logs))  # in the form in which they will be read
        else:
            self._write(logs)

    def _write(self, logs: list[dict[str, Any]]) -> int:
        """Writes logs, and returns their size in bytes."""
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        deadline = time.monotonic() + WAIT_FOR_ROOM_S
        while True:
            try:
                with nullcontext() if self._file_lock.is_held else self._file_lock.held():
                    _append(self._file, data)
                return len(data)
            except OSError as error:
                if not is_full_disk(error) or time.monotonic() > deadline:
                    raise
                warn_once(self._file, "waits for room on the disk", error)
            time.sleep(LOOK_AGAIN_S)


class FileStorage(JournalStorage):
    """Optuna's storage in a journal file.

    Args:
        file: file of the journal.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.journal = Journal(file)
        super().__init__(self.journal)


class _OptunasLock(JournalFileOpenLock):
    """A file lock with the interface of Optuna."""

    def __init__(self, lock: FileLock) -> None:
        super().__init__(str(lock.path))
        self._file_lock = lock

    def acquire(self) -> bool:
        return self._file_lock.acquire()

    def release(self) -> None:
        self._file_lock.release()


def _append(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        end = _end_of_lines(descriptor)
        try:
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            written = 0
            while written < len(data):
                if not (count := os.write(descriptor, data[written:])):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
                written += count
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _end_of_lines(descriptor: int) -> int:
    """The end of the last complete line."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _CHUNK)
        os.lseek(descriptor, start, os.SEEK_SET)
        last = os.read(descriptor, end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0

"""Listings of large folders, kept in the cache, so that they need not be listed again.

A kept listing is valid as long as the times of change of all folders are the same. The time of a
folder does not change if a file in it is overwritten in place. So the sizes and times of all files
are compared in the background, at most once per hour. If they differ, a file beside the listing
informs all jobs that use it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from autocompress.data.files import ARRAYS, Files
from autocompress.files import atomic_folder, cache_folder, digest, kept_if_possible, write_text

log = logging.getLogger("autocompress")

VERSION = 1
FOLDER = "listings"
LEAST = 10_000
"""Minimum number of files of a listing that is kept. Smaller folders are listed each time."""
SETTLED_S = 2.0
"""Seconds since the last change of a folder after which its listing is kept.

File systems round times, so an earlier listing could miss a later change.
"""
RECHECKED_S = 3600.0
UNDER_WAY_S = 60.0
"""Seconds without a sign of a comparison after which it counts as ended."""
RECORD, CHECKED, COMPARING = "listing.json", "checked", "comparing"

FolderFacts = tuple[str, int, int, int]
"""Path, time of change (nanoseconds), device and inode."""


@dataclass(frozen=True)
class Known:
    """A kept listing."""

    files: Files
    classes: tuple[str, ...]
    key: str
    watch: Watch


@dataclass
class Watch:
    """Compares a kept listing with its folder in the background.

    Attributes:
        root: root folder of the listing.
        home: folder of the kept listing.
        key: key of its files.
    """

    root: Path
    home: Path
    key: str
    files: Files = field(repr=False)
    _found: str = ""

    @property
    def found(self) -> str:
        """A sentence about the first changed file, found by any process; empty if there is none."""
        if not self._found:
            with suppress(OSError, ValueError):
                self._found = _finding(self.home, self.key).read_text(encoding="utf-8")
        return self._found

    def start(self) -> None:
        """Compares in a thread, unless a process did so within the hour, or is comparing now."""
        if _is_younger(self.home / CHECKED, RECHECKED_S) or _is_younger(self.home / COMPARING, UNDER_WAY_S):
            return
        self._mark(COMPARING)
        Thread(target=self.compare, name="listing", daemon=True).start()

    def compare(self) -> None:
        """Compares size and time of every file; drops the kept listing if one differs."""
        step, rest = 1000, 0.0
        for start in range(0, len(self.files), step):
            began = time.monotonic()
            self._mark(COMPARING)
            for index in range(start, min(start + step, len(self.files))):
                if not self._is_same(index):
                    self._tell(f"{self.root / self.files.name(index)} has changed since its folder was listed")
                    return
            rest = time.monotonic() - began
            time.sleep(min(rest, 0.1))  # the work of the job has priority
        self._mark(CHECKED)  # written last, so that an interrupted comparison does not count

    def _tell(self, finding: str) -> None:
        self._found = finding
        with kept_if_possible(self.home.parent):
            write_text(_finding(self.home, self.key), finding)
        shutil.rmtree(self.home, ignore_errors=True)
        log.warning("%s; start again, so that the folder is listed again", finding)

    def _mark(self, name: str) -> None:
        with suppress(OSError):
            (self.home / name).touch()
            os.utime(self.home / name)

    def _is_same(self, index: int) -> bool:
        try:
            facts = (self.root / self.files.name(index)).stat()
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns) == (int(self.files.sizes[index]), int(self.files.modified[index]))


def now() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def is_kept(root: Path) -> bool:
    """Whether a listing of ``root`` is kept and none of its folders has changed since."""
    return _record(_home(root, None)) is not None


def kept(root: Path, classes: tuple[str, ...] | None) -> Known | None:
    """The kept listing of ``root``; None if there is none, or a folder has changed.

    Args:
        root: a folder of class folders.
        classes: the classes that the listing must have; None for those that were found.
    """
    home = _home(root, classes)
    if (record := _record(home)) is None or (files := mapped(root, classes)) is None:
        return None
    watch = Watch(root, home, record["key"], files)
    watch.start()
    return Known(files, tuple(record["classes"]), record["key"], watch)


def mapped(root: Path, classes: tuple[str, ...] | None) -> Files | None:
    """The files of a kept listing, mapped from disk, even if a folder has changed."""
    home = _home(root, classes)
    try:
        return Files(*(np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS))
    except (OSError, ValueError):
        return None


def keep(
    root: Path,
    asked: tuple[str, ...] | None,
    classes: tuple[str, ...],
    files: Files,
    folders: Iterable[FolderFacts],
    began: int,
) -> str:
    """Keeps a listing if it is large and its folders did not change; returns the key of its files.

    Args:
        root: root folder of the listing.
        asked: the classes that it must have; None for those that were found.
        classes: classes of the listing.
        files: files of the listing.
        folders: every folder that was read, without ``root``.
        began: when the listing began (:func:`now`).
    """
    key, home = files.key, _home(root, asked)
    shutil.rmtree(home, ignore_errors=True)  # from an earlier state of the folder
    with suppress(OSError):
        _finding(home, key).unlink()  # the folder has its earlier state again
    if len(files) < LEAST:
        return key
    top = root.stat()
    facts = [(str(root), top.st_mtime_ns, top.st_dev, top.st_ino), *folders]
    if max(one[1] for one in facts) > began - SETTLED_S * 1e9:
        return key
    with kept_if_possible(home.parent), atomic_folder(home) as temporary:
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(files, name))
        record = {"classes": classes, "folders": facts, "key": key}
        (temporary / RECORD).write_text(json.dumps(record), encoding="utf-8")
        (temporary / CHECKED).touch()
    return key


def _record(home: Path) -> dict[str, Any] | None:
    """The record of a kept listing; None if there is none, or a folder has changed."""
    try:
        record = json.loads((home / RECORD).read_text(encoding="utf-8"))
        return record if all(_is_unchanged(*facts) for facts in record["folders"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _home(root: Path, classes: tuple[str, ...] | None) -> Path:
    return cache_folder(FOLDER) / digest("listing", VERSION, str(root.absolute()), classes)


def _finding(home: Path, key: str) -> Path:
    """The file with the change since the files of ``key`` were listed."""
    return home.with_name(f"{home.name}-{key[:16]}.changed")


def _is_younger(mark: Path, seconds: float) -> bool:
    try:
        return time.time() - mark.stat().st_mtime < seconds
    except OSError:
        return False


def _is_unchanged(place: str, modified: int, device: int, inode: int) -> bool:
    facts = os.stat(place)  # noqa: PTH116
    return (facts.st_mtime_ns, facts.st_dev, facts.st_ino) == (modified, device, inode)

"""Decoded images of small splits, kept as uint8 in a file that all processes of a machine map.

The file holds a checksum for each image of a split, and then the images in their order. An image is
written by the process that reads it first; all processes write the same values. An image with a
wrong checksum counts as missing, so a damaged file only costs time.
"""

from __future__ import annotations

import os
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from autocompress.files import cache_folder, shared_folder, warn_once

FOLDER = "pictures"
MOST_GIGABYTES = 4.0
"""Maximum size of all files; ``AUTOCOMPRESS_PICTURES_GB`` sets it, and with 0 nothing is kept."""
SHARE_OF_MEMORY = 0.25
"""Largest file, as a share of free memory."""
SPARE_ON_DISK = 2 * 10**9
"""Bytes that stay free on the disk."""
IN_USE_S = 3600.0


def most_bytes() -> int:
    """Maximum size of all files together, in bytes."""
    return round(1e9 * float(os.environ.get("AUTOCOMPRESS_PICTURES_GB", str(MOST_GIGABYTES))))


@dataclass
class Kept:
    """Images of one shape, uint8, in a mapped file.

    Args:
        key: content key of the images and of how they are prepared.
        shape: (images, ...) of all together.
    """

    key: str
    shape: tuple[int, ...]
    _seen: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._seen = np.zeros(self.shape[0], bool)  # checked by this process already

    def __getstate__(self) -> dict[str, Any]:
        return {"key": self.key, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # each process maps the file itself

    @property
    def is_kept(self) -> bool:
        """Whether there is room for the file."""
        return self._mapped is not None

    @cached_property
    def _mapped(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Images and checksums; None if there is no room for them."""
        count = self.shape[0]
        if not count:
            return None
        try:
            path = _file(self.key, prod(self.shape) + 4 * count)
            if path is None:
                return None
            sums = np.memmap(path, np.uint32, "r+", 0, (count,))
            # As plain arrays, because access to a memmap is slower.
            return np.asarray(np.memmap(path, np.uint8, "r+", 4 * count, self.shape)), np.asarray(sums)
        except OSError as error:
            warn_once(Path(FOLDER), "cannot be kept, so each picture is decoded whenever it is read", error)
            return None

    def has(self, slots: np.ndarray) -> np.ndarray:
        """Whether each image is kept, bool."""
        if self._mapped is None:
            return np.zeros(len(slots), bool)
        images, sums = self._mapped
        unseen = np.asarray(slots)[~self._seen[slots]]
        for slot in unseen[sums[unseen] != 0]:
            self._seen[slot] = sums[slot] == _checksum(images[slot])
        return self._seen[slots]

    def read(self, slots: np.ndarray) -> np.ndarray:
        """A copy of the images at ``slots``, all of which must be kept."""
        assert self._mapped is not None
        return np.asarray(self._mapped[0][slots])

    def write(self, slot: int, image: np.ndarray) -> None:
        """Keeps an image; one of another shape is left out."""
        if self._mapped is None or image.shape != self.shape[1:]:
            return
        images, sums = self._mapped
        images[slot] = image
        sums[slot] = _checksum(image)
        self._seen[slot] = True


def _checksum(image: np.ndarray) -> int:
    """The checksum of an image; never 0, which means a missing image."""
    return zlib.crc32(np.ascontiguousarray(image).data) or 1


def _file(key: str, size: int) -> Path | None:
    """The file for ``key``, made with its full size if it is missing; None without room.

    Raises:
        OSError: if it cannot be made.
    """
    most = most_bytes()
    if size > min(most, SHARE_OF_MEMORY * psutil.virtual_memory().available):
        return None
    folder = cache_folder(FOLDER)
    path = folder / key
    with suppress(FileNotFoundError):
        if path.stat().st_size == size:
            os.utime(path)
            return path
    if not _make_room(folder, most - size):
        return None
    if os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize < size + SPARE_ON_DISK:
        return None
    temporary = shared_folder(folder) / f".{key}.{os.getpid()}"
    try:
        with temporary.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _make_room(folder: Path, most: int) -> bool:
    """Removes the least recently opened files, until the others have at most ``most`` bytes.

    Files that were opened within the last hour stay. Returns whether there is room.
    """
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for opened, size, path in sorted(found):
        if total <= most or time.time() - opened < IN_USE_S:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
    return total <= most

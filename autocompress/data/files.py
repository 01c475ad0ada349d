"""The files of a listing as arrays: a million of them take 80 MB, in memory or mapped from disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np

from autocompress.files import digest

ARRAYS = ("names", "ends", "sizes", "modified", "identities", "labels")


@dataclass(frozen=True, eq=False)
class Files:
    """Picture files, one entry each in every array but ``names``.

    Attributes:
        names: the paths below the root, one after the other, uint8.
        ends: where each path ends in ``names``, int64.
        sizes: bytes, int64.
        modified: time of the last change, nanoseconds, int64.
        identities: device and inode, the same for all paths to one file, int64 ``(N, 2)``.
        labels: number of the class, int64.
    """

    names: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray
    modified: np.ndarray
    identities: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """The path of a file below the root."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])].tobytes())

    @property
    def key(self) -> str:
        """A digest of names, sizes, times and classes."""
        parts = (self.names, self.ends, self.sizes, self.modified, self.labels)
        return digest(*(blake2b(np.ascontiguousarray(part).data, digest_size=16).hexdigest() for part in parts))

    def at(self, mask: np.ndarray) -> Files:
        """The files where ``mask`` is True."""
        lengths = np.diff(self.ends, prepend=0)
        return Files(
            self.names[np.repeat(mask, lengths)],
            np.cumsum(lengths[mask]),
            *(part[mask] for part in (self.sizes, self.modified, self.identities, self.labels)),
        )

    @staticmethod
    def joined(parts: Sequence[Files]) -> Files:
        """The files of all parts, in order."""
        starts = np.cumsum([0, *(len(part.names) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        rest = ([getattr(part, name) for part in parts] for name in ARRAYS[2:])
        return Files(np.concatenate([part.names for part in parts]), np.concatenate(ends), *map(np.concatenate, rest))

    @staticmethod
    def of(names: Sequence[str], facts: np.ndarray, label: int) -> Files:
        """Files of one class.

        Args:
            names: paths below the root.
            facts: size, time, device and inode of each, int64 ``(N, 4)``.
            label: label of the class.
        """
        coded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in coded], dtype=np.int64)
        blob = np.frombuffer(b"".join(coded), np.uint8)
        size, modified, identity = facts[:, 0].copy(), facts[:, 1].copy(), facts[:, 2:].copy()
        return Files(blob, ends, size, modified, identity, np.full(len(coded), label, np.int64))


class Paths(Sequence[Path]):
    """The paths of files, made on access."""

    def __init__(self, root: Path, files: Files) -> None:
        self.root, self.of = root, files

    def __len__(self) -> int:
        return len(self.of)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.root / self.of.name(index % len(self))


def repeated(identities: np.ndarray) -> np.ndarray:
    """Whether another entry has the same identity, bool ``(N,)``."""
    order = np.lexsort(identities.T)
    same = (identities[order[1:]] == identities[order[:-1]]).all(axis=1)
    found = np.zeros(len(identities), bool)
    found[order[1:]] |= same
    found[order[:-1]] |= same
    return found

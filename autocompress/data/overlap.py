"""Finds splits that read the same files, or copies of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import Split
from autocompress.errors import UserError


@runtime_checkable
class FilePictures(Protocol):
    """Pictures that are one file each. All lists are None for other pictures.

    Attributes:
        files: the paths.
        identities: device and inode, equal for all paths and links to a file, int64 ``(N, 2)``.
        sizes: size of each file in bytes, int64.
    """

    files: Sequence[Path] | None
    identities: np.ndarray | None
    sizes: np.ndarray | None


MOST_READ = 256 * 1024**2
"""Maximum number of bytes that are read to compare files by content."""


def _read(split: Split) -> tuple[FilePictures, np.ndarray] | None:
    """The files that ``split`` reads: a list, and positions in it; None where they are no files."""
    if not isinstance(split, DatasetSplit) or not isinstance(split.pictures, FilePictures):
        return None
    pictures = split.pictures
    return None if pictures.files is None or pictures.identities is None else (pictures, split.indices.numpy())


def _identities(split: Split) -> np.ndarray:
    """One value for each file that ``split`` reads; empty where the images are not files."""
    read = _read(split)
    pairs = np.zeros((0, 2), np.int64) if read is None else np.asarray(read[0].identities)[read[1]]
    return np.ascontiguousarray(pairs, np.int64).view([("device", np.int64), ("inode", np.int64)]).reshape(-1)


def same_files(one: Split, other: Split) -> bool:
    """Whether both read exactly the same files. False where the images are not files."""
    mine, others = np.unique(_identities(one)), np.unique(_identities(other))
    return len(mine) > 0 and np.array_equal(mine, others)


def refuse_shared_files(splits: Mapping[str, Split]) -> None:
    """Refuses a file that is in two roles. For copies of a file see :func:`copies_note`.

    Parts of one list of pictures are not compared, because they are disjoint.

    Args:
        splits: the split of each role.

    Raises:
        UserError: if two roles share files; names one file and the number of files.
    """
    identities = {role: _identities(split) for role, split in splits.items()}
    for (role, one), (other_role, other) in combinations(splits.items(), 2):
        if isinstance(one, DatasetSplit) and isinstance(other, DatasetSplit) and one.pictures is other.pictures:
            continue
        mine, others = identities[role], identities[other_role]
        shared = np.flatnonzero(np.isin(mine, others))
        if len(shared):
            count = f"{len(shared):,} image{'s' if len(shared) > 1 else ''}"
            first = _path(one, int(shared[0]))
            second = _path(other, int(np.flatnonzero(others == mine[shared[0]])[0]))
            example = f": {first} and {second} are one file" if first != second else f", such as {first}"
            raise UserError(
                f"'{role}' and '{other_role}' share {count}{example}",
                "each image may have one role: remove the links, or name other images",
            )


def _path(split: Split, position: int) -> Path:
    """The path of the file at a position of a split that reads files."""
    read = _read(split)
    assert read is not None
    assert read[0].files is not None
    return read[0].files[int(read[1][position])]


def copies_note(splits: Mapping[str, Split]) -> str | None:
    """A note for the user where held-out files are copies of training files, else None.

    Files of equal size are compared by content, up to ``MOST_READ`` bytes in all. Copies are not
    refused, because data sets with a few duplicates are common.

    Args:
        splits: the split of each role.
    """
    if "train" not in splits:
        return None
    training = _sizes(splits["train"])
    held_out = {role: _sizes(splits[role]) for role in ("val", "test") if role in splits}
    order = np.argsort(training, kind="stable")
    ordered = training[order]
    contents: dict[int, dict[bytes, Path]] = {}
    budget, found = MOST_READ, dict[str, list[tuple[Path, Path]]]()
    for role, sizes in held_out.items():
        shared = np.flatnonzero(np.isin(sizes, training))
        least = int(sizes[shared].min(initial=MOST_READ))
        for position in shared.tolist():
            if budget < least:
                break
            size = int(sizes[position])
            first, last = np.searchsorted(ordered, [size, size + 1])
            cost = size * (1 if size in contents else 1 + int(last - first))
            if cost > budget:
                continue
            budget -= cost
            if size not in contents:
                twins = [_path(splits["train"], int(index)) for index in order[first:last]]
                contents[size] = {_content(twin): twin for twin in twins}
            path = _path(splits[role], position)
            if (twin := contents[size].get(_content(path))) is not None:
                found.setdefault(role, []).append((path, twin))
    if not found:
        return None
    counts = " and ".join(f"{len(pairs):,} of '{role}'" for role, pairs in found.items())
    path, twin = next(iter(found.values()))[0]
    return (
        f"images to train on are copied elsewhere: {counts}, such as {path}, which equals {twin}; accuracies "
        "on the copies are too high"
    )


def _sizes(split: Split) -> np.ndarray:
    """The size of each file that ``split`` reads, in its order; empty where they are no files."""
    read = _read(split)
    return np.zeros(0, np.int64) if read is None else np.asarray(read[0].sizes)[read[1]]


def _content(path: Path) -> bytes:
    """A digest of a file. Each unreadable file, reported elsewhere, has a value of its own."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return str(path).encode()

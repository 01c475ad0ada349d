"""Finds splits that read the same files, or copies of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Protocol, runtime_checkable

from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import Split
from autocompress.errors import UserError

Identity = tuple[int, int]
"""Device and inode of a file: equal for all paths, symbolic links and hard links to it."""


@runtime_checkable
class FilePictures(Protocol):
    """Pictures that are one file each. All lists are None for other pictures."""

    files: Sequence[Path] | None
    identities: Sequence[Identity] | None
    sizes: Sequence[int] | None


MOST_READ = 256 * 1024**2
"""Bytes of files that are compared by content."""


def _paths(split: Split) -> dict[Identity, Path]:
    """A path for each file that ``split`` reads; empty where the images are not files."""
    if not isinstance(split, DatasetSplit) or not isinstance(split.pictures, FilePictures):
        return {}
    files, identities = split.pictures.files, split.pictures.identities
    if files is None or identities is None:
        return {}
    return {identities[i]: files[i] for i in split.indices.tolist()}


def same_files(one: Split, other: Split) -> bool:
    """Whether both read exactly the same files. False where the images are not files."""
    mine = _paths(one)
    return bool(mine) and mine.keys() == _paths(other).keys()


def refuse_shared_files(splits: Mapping[str, Split]) -> None:
    """Refuses a file that is in two roles. For copies of a file see :func:`copies_note`.

    Parts of one list of pictures are not compared, because they are disjoint.

    Args:
        splits: by role.

    Raises:
        UserError: if two roles share files; names one file and the number of files.
    """
    paths = {role: _paths(split) for role, split in splits.items()}
    for (role, one), (other_role, other) in combinations(splits.items(), 2):
        if isinstance(one, DatasetSplit) and isinstance(other, DatasetSplit) and one.pictures is other.pictures:
            continue
        mine, others = paths[role], paths[other_role]
        shared = [identity for identity in mine if identity in others]
        if shared:
            count = f"{len(shared):,} image{'s' if len(shared) > 1 else ''}"
            first, second = mine[shared[0]], others[shared[0]]
            example = f": {first} and {second} are one file" if first != second else f", such as {first}"
            raise UserError(
                f"'{role}' and '{other_role}' share {count}{example}",
                "each image may have one role: remove the links, or name other images",
            )


def copies_note(splits: Mapping[str, Split]) -> str | None:
    """A note for the user where held-out files are copies of training files, else None.

    Files of equal size are compared by content, up to ``MOST_READ`` bytes in all. Such images are
    not refused, because data sets with a few duplicates are common.

    Args:
        splits: by role.
    """
    if "train" not in splits:
        return None
    training: dict[int, list[Path]] = {}
    for size, path in _sizes(splits["train"]):
        training.setdefault(size, []).append(path)
    contents: dict[int, dict[bytes, Path]] = {}
    budget, found = MOST_READ, dict[str, list[tuple[Path, Path]]]()
    for role in ("val", "test"):
        for size, path in _sizes(splits[role]) if role in splits else ():
            twins = training.get(size, [])
            cost = size * (1 if size in contents else 1 + len(twins))
            if not twins or cost > budget:
                continue
            budget -= cost
            if size not in contents:
                contents[size] = {_content(twin): twin for twin in twins}
            if (twin := contents[size].get(_content(path))) is not None:
                found.setdefault(role, []).append((path, twin))
    if not found:
        return None
    counts = " and ".join(f"{len(pairs):,} of '{role}'" for role, pairs in found.items())
    path, twin = next(iter(found.values()))[0]
    return (
        f"images to train on are copied elsewhere: {counts}, such as {path}, which equals {twin}; accuracies on them "
        "are too high"
    )


def _sizes(split: Split) -> Iterator[tuple[int, Path]]:
    """Size and path of each file that ``split`` reads, in its order."""
    if not isinstance(split, DatasetSplit) or not isinstance(split.pictures, FilePictures):
        return
    files, sizes = split.pictures.files, split.pictures.sizes
    if files is None or sizes is None:
        return
    for i in split.indices.tolist():
        yield sizes[i], files[i]


def _content(path: Path) -> bytes:
    """A digest of a file; of an unreadable one, which is reported elsewhere, a value of its own."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return str(path).encode()

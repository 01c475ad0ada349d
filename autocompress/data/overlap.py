"""Overlap: whether two splits read the same files, by links or by another path to one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Protocol, runtime_checkable

from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import Split
from autocompress.errors import UserError

Identity = tuple[int, int]
"""Device and inode of a file: the same for all paths, symbolic links and hard links to it."""


@runtime_checkable
class FilePictures(Protocol):
    """Pictures that lie in one file each. Both lists are None where they do not."""

    files: Sequence[Path] | None
    identities: Sequence[Identity] | None


def _paths(split: Split) -> dict[Identity, Path]:
    """One path for each file that ``split`` reads; empty where its images are not files."""
    if not isinstance(split, DatasetSplit) or not isinstance(split.pictures, FilePictures):
        return {}
    files, identities = split.pictures.files, split.pictures.identities
    if files is None or identities is None:
        return {}
    return {identities[i]: files[i] for i in split.indices.tolist()}


def same_files(one: Split, other: Split) -> bool:
    """Whether both read exactly the same files. False where their images are not files."""
    mine = _paths(one)
    return bool(mine) and mine.keys() == _paths(other).keys()


def refuse_shared_files(splits: Mapping[str, Split]) -> None:
    """Checks that no file has two roles. Copies of a file are not found.

    Parts of one list of pictures are not compared: they are disjoint, and the list itself says
    which links it keeps.

    Args:
        splits: by role.

    Raises:
        UserError: naming a file that two roles read, and how many there are.
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

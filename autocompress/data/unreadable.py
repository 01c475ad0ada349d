"""Finds pictures that cannot be read, before a search; a job may allow to leave out a few."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch

from autocompress.data.batches import Pictures
from autocompress.data.decoding import VERSION
from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import Split
from autocompress.errors import UserError
from autocompress.files import cache_folder, digest, kept_if_possible, write_json
from autocompress.processors import usable_processors

log = logging.getLogger("autocompress")

READERS = 16
"""Maximum number of threads that check pictures; Pillow releases the GIL while it decodes."""
PART = 64
"""Pictures that a thread checks in a row."""
MANY = 20_000
"""The log mentions the check of at least this number of pictures."""
NAMED = 5
"""Maximum number of pictures that a note names."""


@dataclass(frozen=True)
class Fault:
    """A picture that cannot be read.

    Attributes:
        position: position of the picture in the split.
        message: the sentence about it.
        passes: the fault is not in the picture: a server does not answer, or too many files are
            open.
    """

    position: int
    message: str
    passes: bool = False


def without_unreadable(split: Split, role: str, share: float) -> tuple[Split, str | None]:
    """``split`` without the pictures that cannot be read, and a note about them.

    Every picture is decoded once; the result is stored in the cache folder.

    Args:
        split: a split that does not read pictures from files is returned as it is.
        role: role of the split, in words.
        share: share of the pictures that may be left out.

    Raises:
        UserError: if more pictures cannot be read; names the first one.
    """
    if not isinstance(split, DatasetSplit) or not len(split):
        return split, None
    faults = _faults(split.pictures, split.indices.numpy(), at_once=not share)
    if not faults:
        return split, None
    if not share:
        raise UserError(faults[0].message, "replace or remove it, or set data.skip_unreadable")
    if len(faults) > share * len(split):
        raise UserError(
            f"{len(faults):,} of {len(split):,} {role} pictures cannot be read, and data.skip_unreadable allows a "
            f"share of {share:g}: {faults[0].message}",
            "replace or remove them",
        )
    kept = np.ones(len(split), bool)
    kept[[fault.position for fault in faults]] = False
    for fault in faults:
        log.info("left out: %s", fault.message)
    shown = "; ".join(fault.message for fault in faults[:NAMED]) + ("; and others" if len(faults) > NAMED else "")
    note = f"{len(faults):,} of {len(split):,} {role} pictures cannot be read and are left out: {shown}"
    return split.take(torch.from_numpy(np.flatnonzero(kept))), note


def _faults(pictures: Pictures, indices: np.ndarray, *, at_once: bool) -> list[Fault]:
    """The pictures at ``indices`` that cannot be read, by position.

    Args:
        pictures: the list.
        indices: positions in it.
        at_once: the first one is enough.
    """
    key = digest("readable", VERSION, PIL.__version__, pictures.place, pictures.key, indices.tobytes())
    mark = cache_folder("verified") / f"{key}.json"
    if (known := _recorded(mark)) is not None:
        return known
    if len(indices) >= MANY:
        log.info("checking once that the %d pictures of %s can be read", len(indices), pictures.place)

    def check(part: range) -> list[Fault]:
        return list(_checked(pictures, indices, part))

    parts = [range(start, min(start + PART, len(indices))) for start in range(0, len(indices), PART)]
    found: list[Fault] = []
    with ThreadPoolExecutor(min(READERS, usable_processors())) as pool:
        for faults in pool.map(check, parts):
            found += faults
            if found and at_once:
                pool.shutdown(cancel_futures=True)
                return found
    if any(one.passes for one in found):
        return found
    with kept_if_possible(mark.parent):
        write_json(mark, {"place": pictures.place, "images": len(indices), "faults": [vars(one) for one in found]})
    return found


def _checked(pictures: Pictures, indices: np.ndarray, part: range) -> Iterator[Fault]:
    for position in part:
        try:
            pictures.check(int(indices[position]))
        except UserError as error:
            yield Fault(position, error.message, _passes(error.__cause__))


def _passes(cause: BaseException | None) -> bool:
    """Whether the same picture may be read another time. Pillow's own errors have no number."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)


def _recorded(mark: Path) -> list[Fault] | None:
    """The result of an earlier check; None if there was none."""
    try:
        return [Fault(**fault) for fault in json.loads(mark.read_text(encoding="utf-8"))["faults"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None

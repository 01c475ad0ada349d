"""labels:FILE.csv: pictures with any number of labels each, listed in a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autocompress.data.files import Files
from autocompress.data.listing import Listing
from autocompress.data.pictures import DatasetSplit, measured, notes_on, sampled
from autocompress.data.provider import AtPath, LoadOptions, Source
from autocompress.data.split import DataInfo
from autocompress.data.splitnames import role_of
from autocompress.errors import UserError
from autocompress.job.images import LABELS

IMAGE, SPLIT = "image", "split"
"""Columns that are no labels. The second one may be missing."""
_HEAD = f"the first line must name the columns, for example {IMAGE},{SPLIT},cat,dog"


class Labelled(AtPath):
    """Pictures that a table lists: a line for each, with 0 or 1 for each label.

    The column ``image`` has the path of the picture, from the folder of the table. The column
    ``split``, which may be missing, has ``train``, ``val`` or ``test``, or another usual name of
    one. Every other column is a label.
    """

    name = "labels:FILE.csv"
    prefix = LABELS

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        file = self.path(spec)
        table = read_table(file)
        root = file.parent
        listing = Listing(root, _files(root, table, file), table.labels, options.exif)
        images = sampled(listing, options.skips)
        info = measured(images, DataInfo(len(table.labels), 3, (224, 224), (), (), table.labels))
        targets = torch.from_numpy(table.values)
        parts = {}
        for role in sorted(set(table.roles)):
            rows = torch.tensor([row for row, own in enumerate(table.roles) if own == role], dtype=torch.int64)
            parts[role] = DatasetSplit(listing, targets[rows], info, rows)
        return Source(parts.get("train"), parts.get("val"), parts.get("test"), info, notes_on(images))


@dataclass(frozen=True)
class Table:
    """The content of a table.

    Attributes:
        labels: names, in the order of the columns.
        images: path of each picture, from the folder of the table.
        roles: "train", "val" or "test", for each picture.
        values: 0 or 1, float32 ``(pictures, labels)``.
    """

    labels: tuple[str, ...]
    images: tuple[str, ...]
    roles: tuple[str, ...]
    values: np.ndarray


def read_table(file: Path) -> Table:
    """Reads a table of labels.

    Raises:
        UserError: if it is missing, unreadable or malformed. For a fault in one row, the message
            names the line.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}", "data: labels:FILE.csv needs a table of pictures and their labels")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened)
            rows = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table {file} cannot be read: {error}", "save it as CSV in UTF-8") from error
    head = [name.strip() for name in rows[0][1]] if rows else []
    labels = tuple(name for name in head if name not in (IMAGE, SPLIT))
    _check_head(file, head, labels)
    if len(rows) == 1:
        raise UserError(f"{file} lists no pictures", _HEAD)
    at = {name: position for position, name in enumerate(head)}
    images, roles, values = [], [], np.zeros((len(rows) - 1, len(labels)), np.float32)
    for place, (number, line) in enumerate(rows[1:]):
        if len(line) != len(head):
            raise UserError(f"line {number} of {file} has {len(line)} columns, and the first line {len(head)}", _HEAD)
        images.append(line[at[IMAGE]].strip())
        roles.append(_role(line[at[SPLIT]].strip(), number, file) if SPLIT in at else "train")
        values[place] = [_value(line[at[label]].strip(), label, number, file) for label in labels]
    _check_once(images, file)
    return Table(labels, tuple(images), tuple(roles), values)


def _check_head(file: Path, head: Sequence[str], labels: Sequence[str]) -> None:
    if IMAGE not in head:
        raise UserError(f"{file} has no column '{IMAGE}'", _HEAD)
    if len(set(head)) < len(head) or "" in head:
        twice = next(name for name in head if head.count(name) > 1 or not name)
        raise UserError(f"{file} has {f'two columns {twice!r}' if twice else 'a column without a name'}", _HEAD)
    if not labels:
        raise UserError(f"{file} has no column with a label", _HEAD)


def _check_once(images: Sequence[str], file: Path) -> None:
    if len(set(images)) < len(images):
        known: set[str] = set()
        twice = next(image for image in images if image in known or known.add(image))  # type: ignore[func-returns-value]
        raise UserError(f"{file} lists '{twice}' twice", "give each picture one line with all its labels")


def _role(text: str, number: int, file: Path) -> str:
    role = role_of(text)
    if role is None:
        raise UserError(f"line {number} of {file} has the split '{text}'", "write train, val or test")
    return role


def _value(text: str, label: str, number: int, file: Path) -> int:
    if text not in ("0", "1"):
        raise UserError(f"line {number} of {file} has '{text}' for the label '{label}'", "write 0 or 1")
    return int(text)


def _files(root: Path, table: Table, file: Path) -> Files:
    """The files of the pictures.

    Raises:
        UserError: naming the first picture that is not there.
    """
    facts = np.zeros((len(table.images), 4), np.int64)
    for number, image in enumerate(table.images):
        try:
            told = os.stat(root / image)  # noqa: PTH116 (a million Paths take seconds)
        except OSError as error:
            hint = f"paths begin at {root}"
            raise UserError(f"{file} lists '{image}', which is not there: {error.strerror}", hint) from error
        inode = told.st_ino - 2**64 if told.st_ino >= 2**63 else told.st_ino
        facts[number] = told.st_size, told.st_mtime_ns, told.st_dev, inode
    return Files.of(table.images, facts, 0)

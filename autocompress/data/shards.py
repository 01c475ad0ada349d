"""WebDataset shards on this machine: pictures in tar files, which an index finds."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from autocompress.data.decoding import VERSION, check_picture, faults_of, open_picture
from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import atomic, cache_folder, digest, kept_if_possible

log = logging.getLogger("autocompress")

BLOCK = tarfile.BLOCKSIZE
ARRAYS = ("shard", "start", "size", "label")


@dataclass(frozen=True)
class Index:
    """The places of the pictures.

    Attributes:
        shard: number of the tar file, int64.
        start: byte at which the content begins, int64.
        size: size of the content, bytes, int64.
        label: label of the picture, int64.
    """

    shard: np.ndarray
    start: np.ndarray
    size: np.ndarray
    label: np.ndarray


class Shards:
    """The pictures of one split of ``wds/``, whose shards are files.

    Args:
        name: name of the split, as text.
        files: the shards, in order.
        endings: endings of pictures in a shard, without the dot.
        exif: turn pictures upright by their EXIF orientation.

    Raises:
        UserError: if a shard is damaged, or a picture has no label.
    """

    changed = ""

    def __init__(self, name: str, files: Sequence[Path], endings: Sequence[str], exif: bool) -> None:
        self.name = self.place = name
        self.shards, self.exif = list(files), exif
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        self.index = _kept(self.shards, facts, endings)
        self.labels = torch.from_numpy(self.index.label)
        self.key = digest("shards", VERSION, exif, facts, list(endings), self.index.label.tobytes())
        self.classes = tuple(str(label) for label in range(int(self.index.label.max(initial=-1)) + 1))

    def __len__(self) -> int:
        return len(self.labels)

    def check(self, index: int) -> None:
        """Decodes one picture to its last byte.

        Raises:
            UserError: if it cannot be read.
        """
        check_picture(io.BytesIO(self._content(index)), self._name_of(index), self.exif)

    def picture(self, index: int) -> Image.Image:
        """Reads one picture."""
        return open_picture(io.BytesIO(self._content(index)), self._name_of(index), self.exif)

    def split(self, info: DataInfo) -> DatasetSplit:
        """All pictures, as a split.

        Raises:
            UserError: if a label is not a class.
        """
        wrong = np.flatnonzero((self.index.label < 0) | (self.index.label >= info.num_classes))
        if len(wrong):
            label, name = int(self.index.label[wrong[0]]), self._name_of(int(wrong[0]))
            raise UserError(f"the image {name} has the label {label}, but there are {info.num_classes} classes")
        return DatasetSplit(self, self.labels, info)

    def _content(self, index: int) -> bytes:
        place, start, size = (int(part[index]) for part in (self.index.shard, self.index.start, self.index.size))
        with faults_of(f"{index} of {self.name}"), self.shards[place].open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _name_of(self, index: int) -> str:
        shard = self.shards[int(self.index.shard[index])]
        with shard.open("rb") as file:
            file.seek(int(self.index.start[index]) - BLOCK)
            return f"{tarfile.TarInfo.frombuf(file.read(BLOCK), 'utf-8', 'surrogateescape').name} of {shard}"


def shards_of(name: str, dataset: Any, exif: bool) -> Shards | None:
    """The shards of timm's reader, if all are files with a label beside each picture.

    For others (addresses, pipes, labels in JSON), it returns None, and they are streamed.
    """
    reader = dataset.reader
    if reader.target_key or reader.split_info.alt_label or reader.remap_class:
        return None
    files = [Path(reader.root, shard) for shard in reader.split_info.filenames]
    if not files or not all(file.is_file() for file in files):
        return None
    return Shards(name, files, reader.input_key.split(";"), exif)


def _kept(files: Sequence[Path], facts: Sequence[Any], endings: Sequence[str]) -> Index:
    """The index of ``files``, made once."""
    key = digest("index", 1, [str(file.absolute()) for file in files], facts, list(endings))
    path = cache_folder("listings") / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as known:
            return Index(*(known[name] for name in ARRAYS))
    except (OSError, ValueError, KeyError):
        pass
    rows = [(number, *found) for number, file in enumerate(files) for found in _indexed(file, set(endings))]
    table = np.array(rows, np.int64).reshape(-1, 4)
    index = Index(*(np.ascontiguousarray(table[:, column]) for column in range(4)))
    with kept_if_possible(path.parent), atomic(path) as temporary:
        np.savez(temporary, **{name: getattr(index, name) for name in ARRAYS})
    return index


def _indexed(file: Path, endings: set[str]) -> Iterator[tuple[int, int, int]]:
    """Start, size and label of each picture of a shard.

    Members of one sample are consecutive, and have the same name up to its first dot.

    Raises:
        UserError: if the shard is damaged, or a picture has no label.
    """
    log.debug("indexing %s", file)
    sample, picture, label = "", None, None
    try:
        with tarfile.open(file, "r:") as archive:
            while True:
                member = archive.next()
                archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile stores all members
                name, ending = ("", "") if member is None else _parts(member.name)
                if member is not None and not member.isfile():
                    continue
                if name != sample or member is None:
                    if picture is not None:
                        yield *picture, _labelled(label, sample, file)
                    sample, picture, label = name, None, None
                if member is None:
                    return
                if ending in endings:
                    picture = member.offset_data, member.size
                elif ending == "cls":
                    content = archive.extractfile(member)
                    label = None if content is None else content.read()
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"the shard {file} cannot be read: {error}", "replace it") from error


def _parts(path: str) -> tuple[str, str]:
    """The path of a member up to the first dot of its last part, and the ending in lower case."""
    folder, slash, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _labelled(label: bytes | None, sample: str, file: Path) -> int:
    try:
        return int(label or b"")
    except ValueError:
        raise UserError(f"the picture {sample} of {file} has no label", f"write {sample}.cls beside it") from None

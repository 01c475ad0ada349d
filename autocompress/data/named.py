"""One split of a data set that timm opened, as pictures, for every library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from autocompress.compat.datasets import fingerprint_of
from autocompress.data.decoding import VERSION, check_picture, faults_of, open_picture, plain
from autocompress.data.pictures import DatasetSplit
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest

STREAMED = ("hfids/", "tfds/", "wds/")
SHARE_OF_MEMORY = 0.5
"""A streamed data set is kept in memory, up to this share of what is free."""


class Named:
    """The pictures of one split.

    Args:
        spec: the name of the data set in the job.
        split: the name of the split in the data set.
        dataset: the data set as timm opened it.
        exif: turn pictures upright by their EXIF orientation.

    Raises:
        UserError: if streamed pictures cannot be read, or are too many.
    """

    def __init__(self, spec: str, split: str, dataset: Any, exif: bool) -> None:
        self.name = self.place = f"'{spec}', split '{split}'"
        self.exif = exif
        self.dataset = dataset
        if spec.lower().startswith(STREAMED):
            self.dataset = _in_memory(self.name, dataset)
        labels = _labels(self.dataset)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes = _class_names(dataset, self.labels)
        self.files = _files(self.dataset)
        facts = None if self.files is None else [path.stat() for path in self.files]
        self.identities = self.sizes = None
        if facts is not None:
            self.identities = np.array([(stat.st_dev, stat.st_ino) for stat in facts]).astype(np.int64)
            self.sizes = np.array([stat.st_size for stat in facts], np.int64)
        self.reader = getattr(self.dataset, "reader", None)
        self.key = digest(spec, split, VERSION, exif, labels, *self._content(facts))

    def _content(self, facts: Sequence[os.stat_result] | None) -> list[bytes]:
        """Hash input that identifies the content of the data set without decoding all images.

        Args:
            facts: the ``stat`` of each of ``files``.
        """
        if self.files is not None and facts is not None:
            pairs = zip(self.files, facts, strict=True)
            return [digest([(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in pairs]).encode()]
        stored = getattr(self.dataset, "data", None)
        if isinstance(stored, torch.Tensor | np.ndarray):
            return [np.ascontiguousarray(stored).tobytes()]
        if (fingerprint := fingerprint_of(getattr(self.reader, "dataset", None))) is not None:
            return [fingerprint.encode()]
        return [self.picture(i).tobytes() for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def changed(self) -> str:
        """Nothing is known of changes while the job runs."""
        return ""

    def check(self, index: int) -> None:
        """Decodes one picture to its last byte, where it is a file.

        Raises:
            UserError: if it cannot be read.
        """
        if self.files is not None:
            check_picture(self.files[index], str(self.files[index]), self.exif)
        elif self.reader is not None:
            with faults_of(self._name_of(index)), self.reader[index][0] as file:
                check_picture(file, self._name_of(index), self.exif)

    def picture(self, index: int) -> Image.Image:
        """Reads one image."""
        if self.files is not None:
            return open_picture(self.files[index], str(self.files[index]), self.exif)
        name = self._name_of(index)
        if self.reader is not None:
            # The data set itself is not asked: it replaces an unreadable picture by the next one.
            with faults_of(name), self.reader[index][0] as file:
                return open_picture(file, name, self.exif)
        with faults_of(name):
            image = self.dataset[index][0]
            if not isinstance(image, Image.Image):
                raise UserError(f"{self.name} gives a {type(image).__name__} where an image should be")
            image.load()
            return plain(image)

    def _name_of(self, index: int) -> str:
        return f"{index} of {self.name}"

    def split(self, info: DataInfo) -> DatasetSplit:
        """All images, as a split.

        Raises:
            UserError: if a label is not a class.
        """
        wrong = (self.labels < 0) | (self.labels >= info.num_classes)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            label, count = int(self.labels[index]), info.num_classes
            raise UserError(f"the image {self._name_of(index)} has the label {label}, but there are {count} classes")
        return DatasetSplit(self, self.labels, info)


def _in_memory(name: str, stream: Any) -> list[tuple[Any, int]]:
    """All items of a streamed data set.

    Raises:
        UserError: if there are too many, or one cannot be read.
    """
    items: list[tuple[Any, int]] = []
    room = SHARE_OF_MEMORY * psutil.virtual_memory().available
    for item in _numbered(name, stream):
        items.append((item[0], int(item[1])))
        room -= _bytes(item[0])
        if room < 0:
            raise UserError(
                f"{name} is streamed, and its images need more than half of the free memory; about {len(items):,} fit",
                "use hfds/, a folder, or shards on this machine",
            )
    expected = len(stream)
    if expected > len(items):  # webdataset leaves out unreadable images
        missing = expected - len(items)
        raise UserError(f"{missing:,} of the {expected:,} images of {name} cannot be read", "replace or remove them")
    return items


def _bytes(image: Any) -> int:
    """Memory of an image."""
    if isinstance(image, Image.Image):
        return image.width * image.height * len(image.getbands())
    return int(np.asarray(image).nbytes)


def _numbered(name: str, stream: Any) -> Iterator[Any]:
    items, number = iter(stream), 0
    while True:
        with faults_of(f"{number} of {name}"):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
        number += 1


def _files(dataset: Any) -> list[Path] | None:
    """The files of a torchvision data set with one file per picture; None for others."""
    for attribute in ("samples", "imgs"):  # ImageFolder, ImageNet; Places365
        if (found := getattr(dataset, attribute, None)) is not None:
            return [Path(path) for path, _ in found]
    if (found := getattr(dataset, "index", None)) and (categories := getattr(dataset, "all_categories", None)):
        return [Path(dataset.root) / categories[category] / name for category, name in found]  # INaturalist
    return None


def _labels(dataset: Any) -> list[int]:
    """All labels; no image is decoded where the data set stores labels separately."""
    if (targets := getattr(dataset, "targets", None)) is not None:
        return [int(target) for target in targets]
    if getattr(dataset, "all_categories", None) and (index := getattr(dataset, "index", None)):
        return [int(category) for category, _ in index]
    reader = getattr(dataset, "reader", None)
    if (samples := getattr(reader, "samples", None)) is not None:
        return [int(sample[1]) for sample in samples]
    table, key = getattr(reader, "dataset", None), getattr(reader, "label_key", None)
    if table is not None and key is not None:
        return [int(label) for label in table[key]]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def _class_names(dataset: Any, labels: torch.Tensor) -> tuple[str, ...]:
    if classes := getattr(dataset, "classes", None) or getattr(dataset, "all_categories", None):
        return tuple(str(name) for name in classes)
    reader = getattr(dataset, "reader", None)
    features = getattr(getattr(reader, "dataset", None), "features", None)
    if features is not None and (names := getattr(features.get(reader.label_key), "names", None)):  # type: ignore[union-attr]
        return tuple(str(name) for name in names)
    if index := getattr(reader, "class_to_idx", None):
        return tuple(sorted(index, key=index.__getitem__))
    return tuple(str(label) for label in range(int(labels.max()) + 1))

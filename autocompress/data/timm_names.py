"""Any data set that timm's ``create_dataset`` takes: torch/cifar10, hfds/NAME, wds/NAME, tfds/NAME."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from autocompress.data.pictures import DatasetSplit, measured
from autocompress.data.provider import DatasetProvider, Source
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import cache_folder, digest

PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
STREAMED = ("hfids/", "tfds/", "wds/")
MOST_STREAMED = 100_000
"""Streamed data sets are kept in memory, so they may not be larger."""


class TimmNames(DatasetProvider):
    """``torch/cifar10``, ``hfds/...``, ``wds/...``; with a root folder after an ``@``: ``torch/cifar10@/data/cifar``.

    Without a root it is downloaded into the cache folder where timm can do so.
    """

    name = "torch/cifar10, hfds/NAME, wds/NAME"

    def claims(self, spec: str) -> bool:
        return spec.lower().startswith(PREFIXES)

    def load(self, spec: str) -> Source:
        train = _Named.open(spec, "train")
        info = DataInfo(len(train.classes), 3, (224, 224), (), (), train.classes)
        info = measured(train, info)
        # torchvision's sets have two splits; the second is what papers report on, so it is the test split.
        if spec.lower().startswith("torch/"):
            return Source(train.split(info), None, _Named.open(spec, "validation").split(info), info)
        held = [_Named.find(spec, split) for split in ("validation", "test")]
        val, test = (None if part is None else part.split(info) for part in held)
        return Source(train.split(info), val, test, info)


class _Named:
    """One split of a named data set, as pictures."""

    def __init__(self, spec: str, split: str, dataset: Any) -> None:
        self.dataset = dataset
        if spec.lower().startswith(STREAMED):
            self.dataset = _in_memory(spec, dataset)
        labels = _labels(self.dataset)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes = _class_names(dataset, self.labels)
        first = [self.picture(i).tobytes() for i in range(min(16, len(self)))]
        self.key = digest(spec, split, labels, *first)

    @classmethod
    def open(cls, spec: str, split: str) -> _Named:
        """Opens the split, downloading it where it has to be.

        Raises:
            UserError: if timm cannot give it.
        """
        from timm.data import create_dataset

        name, _, root = spec.partition("@")
        folder = root or str(cache_folder() / "data" / name.replace("/", "-"))
        try:
            # A root that the user names is read as it is; only our own folder is filled.
            mode = "RGB" if spec.lower().startswith(STREAMED) else ""  # "": as stored, grey stays grey
            dataset = create_dataset(name, root=folder, split=split, download=not root, input_img_mode=mode)
            return cls(spec, split, dataset)
        except UserError:
            raise
        except (Exception, AssertionError) as error:  # readers raise whatever their library raises
            reason = str(error).strip().splitlines()
            raise UserError(
                f"timm cannot load '{spec}', split '{split}': {reason[0] if reason else type(error).__name__}",
                "check the name and the network, or give its folder: " + name + "@FOLDER",
            ) from error

    @classmethod
    def find(cls, spec: str, split: str) -> _Named | None:
        """Opens the split; None where the data set has none of that name."""
        try:
            return cls.open(spec, split)
        except UserError:
            return None

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Image.Image:
        """Reads one image."""
        image = self.dataset[index][0]
        if not isinstance(image, Image.Image):
            raise UserError(f"the data set gives a {type(image).__name__} where an image should be")
        return image

    def split(self, info: DataInfo) -> DatasetSplit:
        """All images, as a split."""
        return DatasetSplit(self, self.labels, info)


def _in_memory(spec: str, stream: Any) -> list[tuple[Any, int]]:
    items: list[tuple[Any, int]] = []
    for item in stream:
        items.append((item[0], int(item[1])))
        if len(items) > MOST_STREAMED:
            raise UserError(f"'{spec}' streams more than {MOST_STREAMED:,} images", "use hfds/ or a folder instead")
    return items


def _labels(dataset: Any) -> list[int]:
    """All labels, without decoding an image where the data set keeps them apart."""
    if (targets := getattr(dataset, "targets", None)) is not None:
        return [int(target) for target in targets]
    reader = getattr(dataset, "reader", None)
    if (samples := getattr(reader, "samples", None)) is not None:
        return [int(sample[1]) for sample in samples]
    table, key = getattr(reader, "dataset", None), getattr(reader, "label_key", None)
    if table is not None and key is not None:
        return [int(label) for label in table[key]]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def _class_names(dataset: Any, labels: torch.Tensor) -> tuple[str, ...]:
    if classes := getattr(dataset, "classes", None):
        return tuple(str(name) for name in classes)
    reader = getattr(dataset, "reader", None)
    features = getattr(getattr(reader, "dataset", None), "features", None)
    if features is not None and (names := getattr(features.get(reader.label_key), "names", None)):  # type: ignore[union-attr]
        return tuple(str(name) for name in names)
    if index := getattr(reader, "class_to_idx", None):
        return tuple(sorted(index, key=index.__getitem__))
    return tuple(str(label) for label in range(int(labels.max()) + 1))

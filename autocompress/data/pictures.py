"""DatasetSplit: images that are read from disk one by one and prepared with timm's transforms."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from autocompress.data.preprocessing import augmentation, evaluation
from autocompress.data.split import Batch, DataInfo, Loader, Split
from autocompress.files import digest


class Pictures(Protocol):
    """A list of pictures. Equal ``key`` means equal pictures."""

    key: str

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """One picture of mode L or RGB, in any size.

        Raises:
            UserError: if it cannot be read.
        """
        ...


class DatasetSplit(Split):
    """The pictures at ``indices``, with labels.

    Args:
        pictures: the list of pictures.
        labels: int64, one for each of ``indices``.
        info: size, mean and std that the loader gives.
        indices: positions in ``pictures``; None for all.
        num_workers: processes that read; with 0, this process reads.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: torch.Tensor,
        info: DataInfo,
        indices: torch.Tensor | None = None,
        num_workers: int = 0,
    ) -> None:
        self.pictures = pictures
        self._labels = labels.to(torch.int64)
        self.info = info
        self.indices = torch.arange(len(pictures)) if indices is None else indices
        self.num_workers = num_workers
        if len(self._labels) != len(self.indices):
            raise ValueError(f"{len(self.indices)} pictures and {len(self._labels)} labels do not fit")

    def __len__(self) -> int:
        return len(self.indices)

    def labels(self) -> torch.Tensor:
        return self._labels

    @cached_property
    def digest(self) -> str:
        return digest(self.pictures.key, self.indices.tolist(), self._labels.tolist(), self.info.preprocessing)

    def take(self, indices: torch.Tensor) -> Self:
        return self._with(labels=self._labels[indices], indices=self.indices[indices])

    def relabelled(self, labels: torch.Tensor) -> Self:
        return self._with(labels=labels)

    def prepared(self, info: DataInfo) -> Self:
        return self._with(info=info)

    def _with(self, **changes: Any) -> Self:
        now = {"pictures": self.pictures, "labels": self._labels, "info": self.info, "indices": self.indices}
        return type(self)(**{**now, "num_workers": self.num_workers, **changes})

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, augment: bool = False, drop_last: bool = False
    ) -> Loader[DatasetSplit]:
        return _PictureLoader(self, batch_size, shuffle, seed, augment, drop_last)


class _PictureLoader(Loader[DatasetSplit]):
    def __iter__(self) -> Iterator[Batch]:
        change = (augmentation if self.augment else evaluation)(self.split.info)
        dataset = _Transformed(self.split, change, self.seed)
        yield from DataLoader(
            dataset,
            self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            num_workers=self.split.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Transformed(Dataset[tuple[torch.Tensor, int]]):
    """Seeds the transform of each image, so that the number of processes changes nothing."""

    def __init__(self, split: DatasetSplit, change: Callable[[Image.Image], torch.Tensor], seed: int) -> None:
        self.split, self.change, self.seed = split, change, seed
        self.mode = "L" if split.info.channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        image = self.split.pictures.picture(int(self.split.indices[position])).convert(self.mode)
        with _seeded(self.seed * 1_000_003 + position):
            return self.change(image), int(self.split.labels()[position])


class _seeded:
    """Seeds the random generators that timm's transforms use, and restores them afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**32

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed CUDA's generators too

    def __exit__(self, *_error: object) -> None:
        random.setstate(self.before[0])
        np.random.set_state(self.before[1])
        torch.set_rng_state(self.before[2])


def sampled(pictures: Pictures, most: int = 256) -> list[Image.Image]:
    """At most ``most`` of the pictures, spread evenly; always the same ones."""
    step = max(len(pictures) // most, 1)
    return [pictures.picture(i) for i in range(0, len(pictures), step)][:most]


def notes_on(images: Sequence[Image.Image]) -> tuple[str, ...]:
    """A note where at least half of ``images`` (mode L or RGB) have a single colour."""
    blank = sum(all(low == high for low, high in _extremes(image)) for image in images)
    if 2 * blank < len(images):
        return ()
    return (
        f"{blank} of {len(images)} sampled images have a single colour; transparency is dropped, so images with "
        "content in the alpha channel only must be put on a background first",
    )


def _extremes(image: Image.Image) -> list[Any]:
    """(lowest, highest) value of each channel."""
    found = image.getextrema()
    return [found] if image.mode == "L" else list(found)


def measured(images: Sequence[Image.Image], info: DataInfo, default_size: int = 224) -> DataInfo:
    """``info`` with channels, size, mean and standard deviation of ``images`` (mode L or RGB).

    Images that vary in size, or are larger than 512, give ``default_size`` and
    ``fixed_size=False``.
    """
    channels = 1 if all(image.mode == "L" for image in images) else 3
    sizes = {(image.height, image.width) for image in images}
    fixed = len(sizes) == 1 and max(next(iter(sizes))) <= 512
    size = next(iter(sizes)) if fixed else (default_size, default_size)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.concatenate(
        [np.asarray(i.convert(mode).resize((32, 32)), np.float64).reshape(-1, channels) for i in images]
    )
    mean, std = pixels.mean(0) / 255, np.maximum(pixels.std(0) / 255, 1e-2)
    return replace(
        info,
        channels=channels,
        size=size,
        fixed_size=fixed,
        mean=tuple(round(float(v), 4) for v in mean),
        std=tuple(round(float(v), 4) for v in std),
    )

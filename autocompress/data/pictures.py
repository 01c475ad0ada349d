"""DatasetSplit: images that are read from disk one by one and prepared with timm's transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from autocompress.data.batches import Origin, Pictures, Reading, Request
from autocompress.data.preprocessing import normalised
from autocompress.data.processes import HERE, Readers, answers
from autocompress.data.split import Batch, DataInfo, Loader, Split, as_labels
from autocompress.errors import UserError
from autocompress.files import digest


class DatasetSplit(Split):
    """The pictures at ``indices``, with labels.

    Args:
        pictures: the list of pictures.
        labels: one for each of ``indices``: int64 for classes, else as the task needs them.
        info: size, mean and std that the loader gives.
        indices: positions in ``pictures``; None for all.
        readers: the processes that read.
        origin: the pictures of the split from which this one is taken. It keeps their decoded
            images; None to keep nothing.
        slots: positions in ``origin``.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: torch.Tensor,
        info: DataInfo,
        indices: torch.Tensor | None = None,
        readers: Readers = HERE,
        origin: Origin | None = None,
        slots: torch.Tensor | None = None,
    ) -> None:
        self.pictures = pictures
        self._labels = as_labels(labels)
        self.info = info
        self.indices = torch.arange(len(pictures)) if indices is None else indices
        self.readers, self.origin, self.slots = readers, origin, slots
        if len(self._labels) != len(self.indices):
            raise ValueError(f"{len(self.indices)} pictures and {len(self._labels)} labels do not fit")

    def __len__(self) -> int:
        return len(self.indices)

    def labels(self) -> torch.Tensor:
        return self._labels

    @cached_property
    def digest(self) -> str:
        indices, labels = self.indices.contiguous().numpy().tobytes(), self._labels.contiguous().numpy().tobytes()
        return digest(self.pictures.key, indices, labels, self.info.in_keys)

    def take(self, indices: torch.Tensor) -> Self:
        slots = None if self.slots is None else self.slots[indices]
        return self._with(labels=self._labels[indices], indices=self.indices[indices], slots=slots)

    def relabelled(self, labels: torch.Tensor) -> Self:
        return self._with(labels=labels)

    def prepared(self, info: DataInfo) -> Self:
        return self._with(info=info)

    def read_by(self, readers: Readers) -> Self:
        """The same images, read by ``readers``; decoded ones are kept where there is room."""
        origin = Origin(self.pictures, self.indices.numpy())
        return self._with(readers=readers, origin=origin, slots=torch.arange(len(self)))

    def _with(self, **changes: Any) -> Self:
        now = {"pictures": self.pictures, "labels": self._labels, "info": self.info, "indices": self.indices}
        now |= {"readers": self.readers, "origin": self.origin, "slots": self.slots}
        return type(self)(**{**now, **changes})

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, augment: bool = False, drop_last: bool = False
    ) -> Loader[DatasetSplit]:
        return _PictureLoader(self, batch_size, shuffle, seed, augment, drop_last)

    @cached_property
    def reading(self) -> Reading:
        """What reads the pictures. It stores the images that it keeps in ``origin``."""
        return Reading(self.origin or Origin(self.pictures, np.zeros(0, np.int64)), self.info)


class _PictureLoader(Loader[DatasetSplit]):
    def __iter__(self) -> Iterator[Batch]:
        return self.on(torch.device("cpu"))

    def on(self, device: torch.device, first: int = 0) -> Iterator[Batch]:
        split = self.split
        if split.pictures.changed:
            raise UserError(split.pictures.changed, "start again, so that the folder is listed again")
        order = self._order()
        parts = order.split(self.batch_size)[first : len(self)]
        requests = [self._request(positions) for positions in parts]
        labels = (split.labels()[positions] for positions in parts)
        found = answers(split.reading, requests, self._readers())
        for images, wanted in zip(found, labels, strict=True):
            yield normalised(images.to(device, non_blocking=True), split.info), wanted

    def _order(self) -> torch.Tensor:
        """Positions in the split, in the order that torch's DataLoader has with this seed."""
        if not self.shuffle:
            return torch.arange(len(self.split))
        generator = torch.Generator().manual_seed(self.seed)
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        return torch.randperm(len(self.split), generator=generator)

    def _request(self, positions: torch.Tensor) -> Request:
        split = self.split
        slots = np.zeros(len(positions), np.int64) if split.slots is None else split.slots[positions].numpy()
        start = self.seed * 1_000_003 % 2**32
        seeds = (start + positions.numpy()) % 2**32 if self.augment else None
        return Request(split.indices[positions].numpy(), slots, seeds)

    def _readers(self) -> Readers:
        """The reading processes; none if all images are kept in the wanted form."""
        split = self.split
        if self.augment or split.origin is None or split.slots is None or not split.readers.count:
            return split.readers
        kept = split.origin.prepared(split.info)
        return HERE if kept is not None and kept.has(split.slots.numpy()).all() else split.readers


def sampled(pictures: Pictures, skips: bool = False, most: int = 256) -> list[Image.Image]:
    """At most ``most`` of the pictures, spread evenly; always the same ones.

    Args:
        pictures: the list.
        skips: pictures that cannot be read are left out, unless no picture can be read.
        most: how many.

    Raises:
        UserError: naming a picture that cannot be read.
    """
    count = min(most, len(pictures))
    found: list[Image.Image] = []
    last: UserError | None = None
    for index in (place * len(pictures) // count for place in range(count)):
        try:
            found.append(pictures.picture(index))
        except UserError as error:
            if not skips:
                raise
            last = error
    if last is not None and not found:
        raise last
    return found


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

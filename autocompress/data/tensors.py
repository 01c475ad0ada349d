"""TensorSplit: a small data set in memory, prepared and augmented batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch

from autocompress.data.augment import jitter
from autocompress.data.preprocessing import as_picture, augmented_pixels, normalised, recoloured, resized
from autocompress.data.randomness import random_kept, seeded
from autocompress.data.split import Batch, DataInfo, Loader, Split, as_labels
from autocompress.files import digest


class TensorSplit(Split):
    """Images in memory.

    Args:
        images: ``(N, C, H, W)``; uint8 (the loader resizes and normalises), or float32 that is
            normalised already (synthetic images) and is not changed.
        labels: int64 ``(N,)`` for classes; else as the task needs them, images first.
        info: size, mean and std that the loader gives.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, info: DataInfo) -> None:
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not fit")
        if images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images must be uint8 or float32, not {images.dtype}")
        self.images = images
        self._labels = as_labels(labels)
        self.info = info

    def __len__(self) -> int:
        return len(self.images)

    def labels(self) -> torch.Tensor:
        return self._labels

    @cached_property
    def digest(self) -> str:
        images = self.images.contiguous()
        about: list[Any] = [str(images.dtype), list(images.shape), self.info.in_keys]
        if self._labels.dtype == torch.int64 and self._labels.ndim == 1:
            return digest(images.numpy().tobytes(), self._labels.tolist(), *about)
        labels = self._labels.contiguous()
        about += [str(labels.dtype), list(labels.shape)]
        return digest(images.numpy().tobytes(), labels.numpy().tobytes(), *about)

    def take(self, indices: torch.Tensor) -> Self:
        return type(self)(self.images[indices], self._labels[indices], self.info)

    def relabelled(self, labels: torch.Tensor) -> Self:
        return type(self)(self.images, labels, self.info)

    def prepared(self, info: DataInfo) -> Self:
        return type(self)(self.images, self._labels, info)

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, augment: bool = False, drop_last: bool = False
    ) -> Loader[TensorSplit]:
        return _TensorLoader(self, batch_size, shuffle, seed, augment, drop_last)

    def batch(self, indices: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """The images at ``indices``, float32 and normalised; augmented with a ``generator``."""
        images = self.images[indices]
        if images.dtype == torch.float32:
            return jitter(images, generator) if generator else images
        images = resized(recoloured(images, self.info.channels), self.info).float().div_(255)
        if generator:
            images = jitter(images, generator)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.info.mean, self.info.std))
        return (images - mean) / std

    def augmented(self, indices: torch.Tensor, seed: int) -> torch.Tensor:
        """The images at ``indices``, with the augmentation of the job, normalised."""
        change = augmented_pixels(self.info)
        found = []
        with random_kept():
            for index, image in zip(
                indices.tolist(), recoloured(self.images[indices], self.info.channels), strict=True
            ):
                seeded((seed * 1_000_003 + index) % 2**32)
                found.append(change(as_picture(image)))
        return normalised(torch.stack(found), self.info)

    @classmethod
    def empty(cls, info: DataInfo) -> TensorSplit:
        """A split without images."""
        shape = (0, *info.input_size)
        return TensorSplit(torch.zeros(shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), info)


class _TensorLoader(Loader[TensorSplit]):
    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        n = len(self.split)
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        labels = self.split.labels()
        asked = self.split.info.augment if self.split.images.dtype == torch.uint8 else None
        for number in range(len(self)):
            indices = order[number * self.batch_size : (number + 1) * self.batch_size]
            if self.augment and asked is not None:
                yield self.split.augmented(indices, self.seed), labels[indices]
            else:
                yield self.split.batch(indices, generator if self.augment else None), labels[indices]


def measured(images: torch.Tensor, info: DataInfo) -> DataInfo:
    """``info`` with mean and standard deviation of uint8 ``images`` ``(N, C, H, W)``."""
    values = images.double().div(255).transpose(0, 1).flatten(1)
    mean, std = values.mean(1), values.std(1).clamp_min(1e-3)
    return replace(info, mean=tuple(round(v, 4) for v in mean.tolist()), std=tuple(round(v, 4) for v in std.tolist()))

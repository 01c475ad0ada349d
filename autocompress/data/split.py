"""Split: the interface of images with labels, and their batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic, Literal, Self, TypeVar

import torch

from autocompress.files import digest
from autocompress.job import AugmentConfig
from autocompress.task import CLASSIFICATION, Task, TaskRef

AnySplit = TypeVar("AnySplit", bound="Split", covariant=True)

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images float32 ``(N, C, H, W)``, normalised; labels, images first: int64 ``(N,)`` for classes."""


@dataclass(frozen=True)
class DataInfo:
    """The properties of the data that a model depends on.

    Attributes:
        num_classes: number of classes.
        channels: 1 or 3.
        size: (height, width) that the loaders give.
        mean, std: mean and standard deviation of each channel, for values between 0 and 1; the
            loaders normalise with them.
        class_names: names of the classes, in the order of the labels.
        fixed_size: all images have this size; False: sizes vary, and ``size`` is a default.
        crop_pct: side of the centre crop as a share of the side to which an image is resized first;
            above 0, at most 1.
        crop_mode: "center", "squash" or "border", as in timm's evaluation transform.
        interpolation: for resizing: "bilinear", "bicubic" and so on.
        exif: pictures are turned upright by their EXIF orientation when they are read.
        augment: how training images are augmented; None for the way of the data set.
        task: what the labels are for.
    """

    num_classes: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    fixed_size: bool = True
    crop_pct: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bilinear"
    exif: bool = False
    augment: AugmentConfig | None = None
    task: TaskRef = CLASSIFICATION

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.channels, *self.size

    @property
    def preprocessing(self) -> tuple[Any, ...]:
        """How an image is prepared, as JSON."""
        return self.input_size, self.mean, self.std, self.crop_pct, self.crop_mode, self.interpolation

    @property
    def in_keys(self) -> tuple[Any, ...]:
        """The properties that content keys of splits contain."""
        more = () if self.augment is None else (self.augment.model_dump(),)
        return (*self.preprocessing, *more, *(() if self.task.is_classification else (self.task.key,)))


@dataclass(frozen=True)
class Loader(ABC, Generic[AnySplit]):
    """The batches that :meth:`Split.loader` makes. Every iteration gives the same batches."""

    split: AnySplit
    batch_size: int
    shuffle: bool
    seed: int
    augment: bool
    drop_last: bool

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Images float32 ``(N, C, H, W)`` and labels ``(N, ...)``, batch by batch."""

    def on(self, device: torch.device, first: int = 0) -> Iterator[Batch]:
        """The batches from number ``first`` on, with images on ``device`` and labels on the CPU."""
        for images, labels in islice(self, first, None):
            yield images.to(device, non_blocking=True), labels

    def __len__(self) -> int:
        """Number of batches."""
        n = len(self.split)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


class Split(ABC):
    """Labelled images for training, validation or test."""

    info: DataInfo

    @property
    def task(self) -> Task:
        """What the labels are for."""
        return self.info.task.task()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.info.num_classes

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image from the loader."""
        return self.info.input_size

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def labels(self) -> torch.Tensor:
        """All labels in order, read without the images.

        They are int64 ``(N,)`` for classes. For other tasks, the first dimension is that of images.
        """

    @property
    @abstractmethod
    def digest(self) -> str:
        """Content key: images, labels and how they are prepared. Equal keys give equal batches."""

    @abstractmethod
    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, augment: bool = False, drop_last: bool = False
    ) -> Loader[Split]:
        """Batches of ``batch_size``: pairs of images and labels on the CPU.

        Images are float32 ``(N, channels, height, width)``, resized and normalised by ``info``.
        Labels are the entries of :meth:`labels` for these images. The last batch may be smaller,
        unless ``drop_last`` leaves it out.

        Order and augmentation are drawn from ``seed``, so equal arguments give equal batches. Use
        another seed for each epoch.
        """

    @abstractmethod
    def take(self, indices: torch.Tensor) -> Self:
        """The images at ``indices`` (int64), in that order."""

    @abstractmethod
    def relabelled(self, labels: torch.Tensor) -> Self:
        """The same images with other ``labels``, images first."""

    @abstractmethod
    def prepared(self, info: DataInfo) -> Self:
        """The same images, resized and normalised by ``info``."""

    def subset(self, n: int, seed: int = 0) -> Self:
        """A stratified sample of at most ``n`` images, in their original order."""
        return self if n >= len(self) else self.take(stratified(self.labels(), n, seed)[0])


Scored = Literal["val", "whole_val", "test"]
"""Images on which a file can be scored: those that judge trials, all of validation, the test."""


@dataclass(frozen=True)
class Splits:
    """The three splits of a job.

    Attributes:
        train: empty where the user has no images to train on.
        val: judges candidates.
        whole_val: all validation images, where ``val`` is a part of them; the front is scored on
            these at the end.
        test: test split for the final report; empty where the user has none.
        info: description of all three splits.
        synthetic: number of images by data source, where these replace training images.
        unlabelled: the labels of ``train`` have no meaning.
        by_agreement: the labels of ``val`` are the predictions of the baseline, so accuracy on it
            is agreement with the baseline.
        notes: sentences for the user about the images and the baseline on them.
    """

    train: Split
    val: Split
    test: Split
    info: DataInfo
    synthetic: Mapping[str, int] = field(default_factory=dict)
    unlabelled: bool = False
    by_agreement: bool = False
    whole_val: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content key of all three."""
        return digest(self.train.digest, self.val.digest, self.test.digest)

    def prepared(self, info: DataInfo) -> Splits:
        """The same images, resized and normalised by ``info``."""
        train = self.train.prepared(replace(info, augment=self.train.info.augment))
        val, test = (split.prepared(info) for split in (self.val, self.test))
        whole = None if self.whole_val is None else self.whole_val.prepared(info)
        return replace(self, train=train, val=val, test=test, whole_val=whole, info=info)

    def describe(self) -> str:
        """One line: classes, sizes, and the accuracy of one validation image."""
        channels, height, width = self.info.input_size
        one = f" (one image is {100 / max(len(self.val), 1):.2g} points)"
        worth = one if self.info.task.is_classification else ""
        parts = [f"{len(self.train):,} images {'without labels ' if self.unlabelled else ''}to train"]
        if self.synthetic:
            made = ", ".join(f"{number:,} by {name}" for name, number in self.synthetic.items())
            parts = [f"no training data, but synthetic images: {made}"]
        further = "further images" if self.unlabelled else "further synthetic images"
        held_out = f" {further} to compare with the predictions of the baseline"
        of = "" if self.whole_val is None else f" of {len(self.whole_val):,}"
        parts.append(f"{len(self.val):,}{of}{held_out if self.by_agreement else ' to validate'}{worth}")
        parts.append(f"{len(self.test):,} to test" if len(self.test) else "none to test")
        return (
            f"{self.info.num_classes} classes, {height}x{width}, {channels} channel{'s' if channels > 1 else ''}; "
            f"{', '.join(parts)}"
        )


def as_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels as a split keeps them: classes are int64, and all others stay as they are."""
    return labels if labels.ndim > 1 or labels.is_floating_point() else labels.to(torch.int64)


def stratified(labels: torch.Tensor, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws ``n`` of the positions of ``labels`` so that each class keeps its share, by ``seed``.

    Labels that are no classes (more than one number each, or fractions) are drawn at random.

    Returns:
        The drawn positions and the others, both int64, ascending.
    """
    if labels.ndim > 1 or labels.is_floating_point():
        labels = torch.zeros(len(labels), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    # One stable sort puts the images of each class together, in the order of the draw.
    grouped, by_class = torch.sort(labels[order], stable=True)
    _, sizes = torch.unique_consecutive(grouped, return_counts=True)
    size = sizes.repeat_interleave(sizes)
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    # The rank of each image within its class, as a share of the class. The n lowest ranks are a
    # stratified sample.
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels), dtype=torch.float64) - first + 0.5) / size
    by_rank = order[torch.argsort(rank, stable=True)]
    return by_rank[:n].sort().values, by_rank[n:].sort().values

"""Sections of a job about images: where they come from, and how training images are augmented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from autocompress.errors import HintedError
from autocompress.job.section import Section

SPLITS = ("train", "val", "test")
"""The keys of ``data`` that name images."""
UNLABELLED = "unlabelled:"
"""Prefix of a data set of pictures without labels."""
LABELS = "labels:"
"""Prefix of a table of pictures with any number of labels each."""


class DataConfig(Section):
    """Where images come from: a name for each split.

    A single name in a job stands for all three splits. If all are None, there is no data.

    Without ``train``, data sources make the training images from the baseline. Candidates are then
    judged on the labelled images of ``val``; without ``test``, half of these are the test images.
    Without ``train`` and ``val``, candidates are judged by agreement with the baseline on synthetic
    images, and ``test`` is only read at the end.

    Pictures without labels (``unlabelled:PATH``) can be named for ``train`` only. Without ``val``,
    candidates are judged by agreement with the baseline on a held-out part of these pictures.
    """

    train: str | None = None
    """Data set to train and calibrate on: ``digits``, ``folder:PATH``, ``torch/cifar10``."""
    val: str | None = None
    """Data set whose images judge trials."""
    test: str | None = None
    """Data set on which only the finished front is scored."""
    exif: bool = False
    """Turn pictures upright by their EXIF orientation, which timm and torchvision ignore."""
    val_images: int | None = Field(default=None, ge=1)
    """Number of validation images that judge trials, drawn evenly from the classes.

    At the end, the models of the front are scored on all validation images.
    """
    train_images: int | None = Field(default=None, ge=2)
    """Number of training images that are used, drawn evenly from the classes."""
    workers: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    """Processes that read pictures; ``auto`` takes what processors and trials allow, at most 8."""
    skip_unreadable: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the pictures that may be left out because they cannot be read."""
    root: Annotated[Path, Field(strict=False)] | None = None
    """Folder at which relative paths begin, and in which timm looks for its own data sets.

    A data set with ``@FOLDER`` names its own folder.
    """

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        if given is None or given == "none":
            return {}
        if isinstance(given, Mapping):
            return {split: None if word == "none" else word for split, word in given.items()}
        if isinstance(given, str) and given.startswith(UNLABELLED):
            return {"train": given}
        return {"train": given, "val": given, "test": given} if isinstance(given, str) else given

    @field_validator("val", "test")
    @classmethod
    def _check_labels(cls, given: str | None) -> str | None:
        if given is not None and given.startswith(UNLABELLED):
            raise HintedError(
                f"cannot be '{given}'", "pictures without labels can only train and calibrate, so name them for 'train'"
            )
        return given

    @property
    def words(self) -> dict[str, str]:
        """The name of the data set for each split that the job names."""
        return {role: word for role in SPLITS if (word := getattr(self, role)) is not None}

    def spelled(self) -> str | dict[str, Any] | None:
        """The section as a job file has it: one name if it is the same for all splits."""
        names: dict[str, Any] = {role: self.words.get(role) for role in SPLITS}
        options = self.model_dump(mode="json", exclude=set(SPLITS), exclude_defaults=True)
        if options:
            return names | options
        return self.train if self.train == self.val == self.test else names

    @property
    def is_free(self) -> bool:
        """Whether the job is data-free: it has no images to train on."""
        return self.train is None

    @property
    def is_unlabelled(self) -> bool:
        """Whether the images to train on have no labels."""
        return self.train is not None and self.train.startswith(UNLABELLED)

    @property
    def name(self) -> str:
        """One name for all splits, for titles: ``glyphs``, or ``no-data``."""
        return self.train or self.val or self.test or "no-data"


class AugmentConfig(Section):
    """How training images are augmented, by timm's names."""

    auto: str | None = None
    """A policy: ``rand-m9-mstd0.5``, ``augmix-m3-w3``, ``original``."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of the beta distribution by which two images are mixed; 0 for none."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of the beta distribution by which a part of an image is replaced; 0 for none."""
    re_prob: float = Field(default=0.0, ge=0, le=1)
    """Probability of erasing a rectangle."""
    hflip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a flip between left and right."""
    vflip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a flip between top and bottom."""
    color_jitter: float = Field(default=0.2, ge=0, le=1)
    """Largest relative change of brightness, contrast and saturation.

    With most policies in ``auto``, timm does not change colours in this way.
    """
    scale: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of a picture's area that a crop has."""

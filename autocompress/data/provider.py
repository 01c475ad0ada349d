"""DatasetProvider: where a plugin, or the engine itself, brings a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from autocompress.data.split import DataInfo, Split
from autocompress.errors import UserError


@dataclass(frozen=True)
class Source:
    """The splits of one data set. A split that it does not have is None; at least one is there.

    Attributes:
        train: images to train on. In a data set without ``val`` and ``test``, simply its images.
        val, test: held-out images.
        info: of all splits.
        notes: sentences for the user about what was found.
        labelled: False where labels mean nothing: such images can be trained on with the baseline's
            answers, and ``info`` knows no classes.
    """

    train: Split | None
    val: Split | None
    test: Split | None
    info: DataInfo
    notes: tuple[str, ...] = ()
    labelled: bool = True


@dataclass(frozen=True)
class LoadOptions:
    """How a job uses a data set.

    Attributes:
        train: the job trains on it. Where it does not, a provider need not open the training images
            of a data set that has held-out ones.
        exif: pictures are turned upright by their EXIF orientation.
        preview: for a dry run, which looks at no image. A provider that reads or makes many images
            may read few: only the number of images, the labels, the classes and the size have to be
            right.
    """

    train: bool = True
    exif: bool = False
    preview: bool = False


class DatasetProvider(ABC):
    """Loads the data sets of one kind."""

    name: ClassVar[str]
    """What the user writes (``glyphs``), or its pattern (``folder:PATH``); shown where a name is
    not known."""

    def claims(self, spec: str) -> bool:
        """Whether ``spec``, the job's word, is this provider's."""
        return spec == self.name

    def anchored(self, spec: str) -> str:
        """``spec`` with absolute paths (``job.absolute``), for a resume from another folder.

        Override it where a spec names a path.
        """
        return spec

    @abstractmethod
    def load(self, spec: str) -> Source:
        """The data set at its natural size and with its own mean and standard deviation.

        Raises:
            UserError: if it is missing or broken.
        """

    def open(self, spec: str, options: LoadOptions) -> Source:
        """What the engine calls: :meth:`load`, as ``options`` say. Override it to make use of them.

        Raises:
            UserError: if the data set is missing or broken, or cannot do what ``options`` ask.
        """
        if options.exif:
            raise UserError(f"the data set '{spec}' does not support 'data.exif'", "leave it out")
        return self.load(spec)

"""DatasetProvider: the interface by which plugins and the engine offer data sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autocompress.data.split import DataInfo, Split
from autocompress.errors import UserError
from autocompress.job import absolute, below


@dataclass(frozen=True)
class Source:
    """The splits of one data set. A missing split is None; there is at least one.

    Attributes:
        train: images to train on; all images of a data set without ``val`` and ``test``.
        val, test: held-out images.
        info: description of all splits.
        notes: sentences for the user about the data.
        labelled: False where labels have no meaning. Training on such images uses the outputs of
            the baseline, and ``info`` has no classes.
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
        train: the job trains on it. Otherwise a provider need not open the training images of a
            data set that has held-out images.
        exif: pictures are turned upright by their EXIF orientation.
        preview: for a dry run, which uses no pixels. Only the number of images, the labels, the
            classes and the size have to be correct, so a provider may read few images.
        skips: pictures that cannot be read may be left out; the engine checks all of them later.
    """

    train: bool = True
    exif: bool = False
    preview: bool = False
    skips: bool = False


class DatasetProvider(ABC):
    """Loads the data sets of one kind."""

    name: ClassVar[str]
    """The name in a job (``glyphs``), or its pattern (``folder:PATH``); shown in error messages."""

    def claims(self, spec: str) -> bool:
        """Whether ``spec``, the name in the job, belongs to this provider."""
        return spec == self.name

    def anchored(self, spec: str) -> str:
        """``spec`` with absolute paths (``job.absolute``), for a resume from another folder.

        Override it where a spec names a path.
        """
        return spec

    def rooted(self, spec: str, root: Path | None) -> str:
        """``spec`` with relative paths that begin at ``root``, the job's ``data.root``.

        Override it where a spec names a path.
        """
        del root
        return spec

    @abstractmethod
    def load(self, spec: str) -> Source:
        """The data set in its original size, with its mean and standard deviation.

        Raises:
            UserError: if it is missing or broken.
        """

    def open(self, spec: str, options: LoadOptions) -> Source:
        """The engine calls this: :meth:`load`, with options. Override it to use the options.

        Raises:
            UserError: if the data set is missing or broken, or does not support the ``options``.
        """
        if options.exif:
            raise UserError(f"the data set '{spec}' does not support 'data.exif'", "leave it out")
        return self.load(spec)


class AtPath(DatasetProvider):
    """Loads data sets that a job names by a prefix and a path."""

    prefix: ClassVar[str]

    def claims(self, spec: str) -> bool:
        return spec.startswith(self.prefix)

    def anchored(self, spec: str) -> str:
        return self.prefix + absolute(spec.removeprefix(self.prefix))

    def rooted(self, spec: str, root: Path | None) -> str:
        return self.prefix + below(root, spec.removeprefix(self.prefix))

    def path(self, spec: str) -> Path:
        """The path in ``spec``."""
        return Path(spec.removeprefix(self.prefix)).expanduser()

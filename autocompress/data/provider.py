"""DatasetProvider: where a plugin, or the engine itself, brings a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from autocompress.data.split import DataInfo, Split


@dataclass(frozen=True)
class Source:
    """What a provider has. A split that it does not have is None; the engine then carves it from ``train``."""

    train: Split
    val: Split | None
    test: Split | None
    info: DataInfo


class DatasetProvider(ABC):
    """Loads the data sets of one kind."""

    name: ClassVar[str]
    """What the user writes (``glyphs``), or its pattern (``folder:PATH``); shown where a name is not known."""

    def claims(self, spec: str) -> bool:
        """Whether ``spec``, the job's word, is this provider's."""
        return spec == self.name

    @abstractmethod
    def load(self, spec: str) -> Source:
        """The data set at its natural size and with its own mean and standard deviation.

        Raises:
            UserError: if it is missing or broken.
        """

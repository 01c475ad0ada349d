"""Sealed test images: in jobs without training data they are read for the report only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never

import torch

from autocompress.data.split import DataInfo, Loader, Split


class SealedError(RuntimeError):
    """Test images were accessed before the end of the search."""


class Sealed(Split):
    """A split with images and labels that cannot be read before the search is closed.

    The number and the kind of the images are public. All other access raises :class:`SealedError`,
    except within :func:`unsealed`. A worker drops the images (:func:`let_go`), so that nothing can
    open the split there. This guards against mistakes, not against hostile code.

    Args:
        split: the split to seal; keep no other reference to it.

    Attributes:
        refused: number of refused accesses.
        openings: number of times that it was opened.
    """

    def __init__(self, split: Split) -> None:
        self.info: DataInfo = split.info
        self._count = len(split)
        self.__split: Split | None = split
        self._is_open = False
        self.refused = 0
        self.openings = 0

    def __len__(self) -> int:
        return self._count

    def _inside(self) -> Split:
        if not self._is_open or self.__split is None:
            self.refused += 1
            raise SealedError(
                "the test images are sealed: without training data they are used for the last report only, "
                "and no method, data source or trial may read them"
            )
        return self.__split

    def labels(self) -> torch.Tensor:
        return self._inside().labels()

    @property
    def digest(self) -> str:
        return self._inside().digest

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int = 0, augment: bool = False, drop_last: bool = False
    ) -> Loader[Split]:
        return self._inside().loader(batch_size, shuffle, seed, augment, drop_last)

    def take(self, indices: torch.Tensor) -> Never:
        del indices
        raise self._no_copies()

    def relabelled(self, labels: torch.Tensor) -> Never:
        del labels
        raise self._no_copies()

    def prepared(self, info: DataInfo) -> Never:
        del info
        raise self._no_copies()

    def subset(self, n: int, seed: int = 0) -> Never:
        del n, seed
        raise self._no_copies()

    def __getattr__(self, name: str) -> Never:
        """Refuses the attributes of the sealed split, such as tensors and files."""
        raise self._no_copies() if not name.startswith("__") else AttributeError(name)

    def __reduce_ex__(self, protocol: object) -> Never:
        del protocol
        raise self._no_copies()

    def _no_copies(self) -> SealedError:
        """The error for copies, which would stay open when this object is closed again."""
        self.refused += 1
        return SealedError("the test images are sealed and cannot be copied")


@contextmanager
def unsealed(split: Split) -> Iterator[Split]:
    """Context that opens ``split`` if it is sealed, and gives other splits unchanged.

    Only the closing of a search calls this. Images that were dropped stay dropped.
    """
    if not isinstance(split, Sealed):
        yield split
        return
    split.openings += 1
    split._is_open = True
    try:
        yield split
    finally:
        split._is_open = False


def let_go(split: Split) -> None:
    """Drops the images of a sealed split for good; other splits are left unchanged."""
    if isinstance(split, Sealed):
        split._Sealed__split = None  # type: ignore[attr-defined]

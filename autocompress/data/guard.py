"""Sealed test images: without training data, a user's labelled images only serve the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never

import torch

from autocompress.data.split import DataInfo, Loader, Split


class SealedError(RuntimeError):
    """Something reached for test images before the search was over."""


class Sealed(Split):
    """A split whose images and labels nobody gets before the search is closed.

    How many images there are, and of what kind, may be known; all else raises :class:`SealedError`,
    until :func:`unsealed` opens this very object, and again behind it. A worker lets the images go
    (:func:`let_go`): there nothing can open it any more. It keeps honest code honest; it is no
    vault.

    Args:
        split: what is sealed; keep no other reference to it.

    Attributes:
        refused: how often something reached for what is sealed.
        openings: how often it was opened.
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
                "the test images are sealed: without training data they are for the last report alone, "
                "and no method, source or trial may look at them"
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
        """Refuses the inner split's own attributes, such as its tensors and files."""
        raise self._no_copies() if not name.startswith("__") else AttributeError(name)

    def __reduce_ex__(self, protocol: object) -> Never:
        del protocol
        raise self._no_copies()

    def _no_copies(self) -> SealedError:
        """A part or another form of it would stay open when this object is closed again."""
        self.refused += 1
        return SealedError("the test images are sealed, and no copy or part of them can be had")


@contextmanager
def unsealed(split: Split) -> Iterator[Split]:
    """Opens ``split`` within, if it is sealed; gives other splits as they are.

    Only what closes a search calls this. Where the images were let go, they stay away.
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
    """Drops the images of a sealed split for good; nothing happens to one that is not sealed."""
    if isinstance(split, Sealed):
        split._Sealed__split = None  # type: ignore[attr-defined]

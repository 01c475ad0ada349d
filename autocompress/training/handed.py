"""Weights of a trained baseline that one process hands to another, which then trains none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Handed:
    """The files of this process."""

    given: Path | None = None
    kept: Path | None = None


def given() -> Path | None:
    """The file that another process gave; None where this process has its own."""
    return _Handed.given


def kept() -> Path | None:
    """Where the last baseline of this process that has no weights of its own is stored."""
    return _Handed.kept


def keep(path: Path) -> None:
    """Remembers where a baseline is stored."""
    _Handed.kept = path


@contextmanager
def weights_given(path: Path | None) -> Iterator[None]:
    """Within the block, a baseline that would be trained is read from ``path``."""
    before, _Handed.given = _Handed.given, path
    try:
        yield
    finally:
        _Handed.given = before

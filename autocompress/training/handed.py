"""Passes the weights of a trained baseline to another process, so that it need not train one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Handed:
    """The paths of weights in this process."""

    given: Path | None = None
    kept: Path | None = None


def given() -> Path | None:
    """The file with weights from another process; None if there is none."""
    return _Handed.given


def kept() -> Path | None:
    """The path of the last baseline that was trained for a job of this process."""
    return _Handed.kept


def keep(path: Path) -> None:
    """Stores the path for :func:`kept`."""
    _Handed.kept = path


@contextmanager
def weights_given(path: Path | None) -> Iterator[None]:
    """Within the block, baselines are read from ``path`` and not trained."""
    before, _Handed.given = _Handed.given, path
    try:
        yield
    finally:
        _Handed.given = before

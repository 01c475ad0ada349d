"""Atomic files and folders: they are complete or missing, and failures are errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from autocompress.errors import UserError
from autocompress.files import atomic, atomic_folder, full_disk_told, is_full_disk, write_json


def test_a_folder_that_another_process_made_is_not_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "entry") as temporary:
            (temporary / "file").write_text(text)
    assert (tmp_path / "entry" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EXDEV, errno.EIO])
def test_a_folder_that_cannot_be_renamed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def rename(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match=os.strerror(number)), atomic_folder(tmp_path / "entry") as temporary:
        (temporary / "file").write_text("whole")
    assert not list(tmp_path.iterdir()), "no incomplete file is left"


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "entry").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "entry") as temporary:
        (temporary / "file").write_text("whole")
    assert (tmp_path / "entry").read_text() == "a file"


def test_a_failed_write_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems notice that they are full only when data is written to the disk."""
    write_json(tmp_path / "file", 1)

    def fsync(file: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="quota"):
        write_json(tmp_path / "file", 2)
    with pytest.raises(OSError, match="quota"), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").touch()
    assert (tmp_path / "file").read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_system_without_fsync_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(file: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("cannot write: Disk quota exceeded"),
    ],
)
def test_full_disk_errors_of_all_libraries_are_recognised(tmp_path: Path, error: Exception) -> None:
    assert is_full_disk(error)
    later = RuntimeError("the library failed")
    later.__cause__ = error
    with pytest.raises(UserError, match="there is no room left to write to") as told, full_disk_told(tmp_path):
        raise later
    assert str(tmp_path) in told.value.message


def test_other_errors_do_not_count_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), full_disk_told(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")

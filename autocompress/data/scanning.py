"""Finds the pictures below a folder.

Links are followed at every depth. Hidden files, and files of operating systems, are left out.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.data.files import Files
from autocompress.errors import UserError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
IGNORED = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that macOS archives, Synology, Windows and Linux create.

Hidden folders, such as ``.ipynb_checkpoints``, are always left out.
"""


@dataclass(frozen=True)
class Scanned:
    """The pictures of one class.

    Attributes:
        files: sorted by path.
        behind_link: whether each file was reached through a symbolic link to a folder, bool.
        folders: path, time of change (nanoseconds), device and inode of every folder that was read.
    """

    files: Files
    behind_link: np.ndarray
    folders: list[tuple[str, int, int, int]]


def is_picture(name: str) -> bool:
    """Whether a file of this name is a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (a million Paths take seconds)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in ``folder``, sorted; links to folders are included.

    Raises:
        UserError: if it cannot be read, or a link that may lead to pictures is broken.
    """
    return sorted(Path(entry.path) for entry in _visible(folder) if _kind(entry) == "folder")


def contents(folder: Path) -> tuple[set[str], bool]:
    """Names of the visible folders in ``folder``, and whether pictures lie directly in it.

    Files are not examined, so this is cheap in large folders.

    Raises:
        UserError: if it cannot be read.
    """
    names, has_pictures = set(), False
    for entry in _visible(folder):
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself, which listing reports
            is_folder = False
        if is_folder:
            names.add(entry.name)
        elif not has_pictures:
            has_pictures = is_picture(entry.name)
    return names, has_pictures


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture below ``folder``, at any depth.

    Stops at the first one, and does not follow links below it.
    """
    for _, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".") and name not in IGNORED]
        if any(is_picture(file) for file in files if not file.startswith(".")):
            return True
    return False


def pictures_in(folder: Path, root: Path, label: int = 0) -> Scanned:
    """All pictures below ``folder``, sorted by path.

    A link to a folder that holds the link, or that was visited before, is not followed.

    Args:
        folder: folder of a class.
        root: root folder of the listing; paths are relative to it.
        label: label of the class.

    Raises:
        UserError: if a folder cannot be read, or a link is broken.
    """
    real = Path(os.path.realpath(folder))
    seen = {(facts.st_dev, facts.st_ino) for facts in (path.stat() for path in (real, *real.parents))}
    names: list[str] = []
    facts, behind = array("q"), bytearray()
    folders: list[tuple[str, int, int, int]] = []
    waiting = [(str(folder), folder.is_symlink())]
    start = len(os.path.join(root, ""))  # noqa: PTH118 (Path drops the slash)
    while waiting:
        place, behind_link = waiting.pop()
        of = Path(place).stat()
        folders.append((place, of.st_mtime_ns, of.st_dev, of.st_ino))
        inner = []
        for entry in _visible(Path(place)):
            kind = _kind(entry)
            if kind == "folder":
                inner.append(entry)
            elif kind == "file" and is_picture(entry.name):
                stat = _facts(entry)
                names.append(entry.path[start:])
                facts.extend((stat.st_size, stat.st_mtime_ns, stat.st_dev, _signed(stat.st_ino)))
                behind.append(behind_link)
        for entry in sorted(inner, key=lambda one: one.name):
            stat = _facts(entry)
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                waiting.append((entry.path, entry.is_symlink() or behind_link))
    # Paths are ordered by their parts, as Path does it: "a/b" comes before "a.b".
    order = sorted(range(len(names)), key=lambda number: names[number].split("/"))
    table = np.frombuffer(facts, np.int64).reshape(-1, 4)[order]
    files = Files.of([names[number] for number in order], table, label)
    return Scanned(files, np.frombuffer(bytes(behind), np.bool_)[order], folders)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in IGNORED]
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def _facts(entry: os.DirEntry[str]) -> os.stat_result:
    """Size, times and identity; links are followed.

    Raises:
        UserError: if the entry is gone.
    """
    try:
        return entry.stat()
    except FileNotFoundError:
        raise UserError(f"{entry.path} disappeared while its folder was listed", "start again") from None


def _kind(entry: os.DirEntry[str]) -> str:
    """ "folder", "file" or "other"; links are followed.

    Raises:
        UserError: if a link that may lead to pictures is broken.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, or to a file that may not be read
        pass
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    if entry.is_symlink() and suffix in SUFFIXES | {""}:
        raise UserError(f"{entry.path} is a broken link", "repair or remove it")
    return "other"


def _signed(inode: int) -> int:
    """An inode number as int64."""
    return inode - 2**64 if inode >= 2**63 else inode

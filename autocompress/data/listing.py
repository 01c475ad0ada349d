"""Lists the pictures below a folder of class folders.

Links are followed at every depth. Hidden files, and files of operating systems, are left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from autocompress.data.pictures import DatasetSplit
from autocompress.data.reading import VERSION, check_picture, open_picture, verify
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest

log = logging.getLogger("autocompress")

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
IGNORED = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that macOS archives, Synology, Windows and Linux create.

Hidden folders, such as ``.ipynb_checkpoints``, are always left out.
"""


@dataclass(frozen=True)
class Found:
    """A picture file.

    Attributes:
        path: the path by which it was found.
        size, modified: in bytes; in nanoseconds.
        identity: device and inode, the same for all paths to one file.
        is_link: it is a symbolic link, or it was reached through one.
        behind_link: it was reached through a symbolic link to a folder.
    """

    path: Path
    size: int
    modified: int
    identity: tuple[int, int]
    is_link: bool
    behind_link: bool


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in ``folder``, sorted; links to folders are included.

    Raises:
        UserError: if it cannot be read.
    """
    return [path for path, is_folder, _ in _children(folder) if is_folder]


def contents(folder: Path) -> tuple[set[str], bool]:
    """Names of the visible folders in ``folder``, and whether pictures lie directly in it.

    Files are not examined, so this is cheap in large folders.

    Raises:
        UserError: if it cannot be read.
    """
    names, has_pictures = set(), False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in IGNORED:
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself, which listing reports
                    is_folder = False
                if is_folder:
                    names.add(entry.name)
                elif not has_pictures:
                    has_pictures = Path(entry.name).suffix.lower() in SUFFIXES
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    return names, has_pictures


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture below ``folder``, at any depth.

    Stops at the first one, and does not follow links below it.
    """
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".") and name not in IGNORED]
        if any(Path(place, file).suffix.lower() in SUFFIXES for file in files if not file.startswith(".")):
            return True
    return False


def pictures_in(folder: Path) -> list[Found]:
    """All pictures below ``folder``, sorted by path.

    A link to a folder that holds the link, or that was visited before, is not followed.

    Raises:
        UserError: if a folder cannot be read, or a link is broken.
    """
    real = Path(os.path.realpath(folder))
    seen = {_identity(path.stat()) for path in (real, *real.parents)}
    found: list[Found] = []
    waiting = [(folder, folder.is_symlink())]
    while waiting:
        place, behind_link = waiting.pop()
        for path, is_folder, is_link in _children(place):
            if not is_folder and path.suffix.lower() not in SUFFIXES:
                continue
            facts = path.stat()
            identity = _identity(facts)
            if not is_folder:
                size, modified = facts.st_size, facts.st_mtime_ns
                found.append(Found(path, size, modified, identity, is_link or behind_link, behind_link))
            elif identity not in seen:
                seen.add(identity)
                waiting.append((path, is_link or behind_link))
    return sorted(found, key=lambda file: file.path)


def _children(folder: Path) -> list[tuple[Path, bool, bool]]:
    """The visible entries of ``folder``, sorted: path, is it a folder, is it a link.

    Raises:
        UserError: if the folder cannot be read, or a link that may lead to pictures is broken.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in IGNORED]
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    for entry in sorted(visible, key=lambda entry: entry.name):
        path = Path(entry.path)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself, or to a file that may not be read
            is_folder = is_file = False
        if is_folder or is_file:
            found.append((path, is_folder, entry.is_symlink()))
        elif entry.is_symlink() and path.suffix.lower() in SUFFIXES | {""}:
            raise UserError(f"{path} is a broken link", "repair or remove it")
    return found


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


class Listing:
    """The image files under one folder of class folders, sorted.

    Args:
        root: the folder.
        files: the pictures of each class.
        classes: names of the class folders, sorted.
        exif: turn pictures upright by their EXIF orientation.

    Attributes:
        identities: device and inode of each file.
        sizes: in bytes, of each file.
        key: changes with names, sizes and times of the files, and with how they are read.
    """

    def __init__(
        self, root: Path, files: Sequence[Sequence[Found]], classes: tuple[str, ...], exif: bool = False
    ) -> None:
        self.root, self.classes, self.exif = root, classes, exif
        self.files = [file.path for mine in files for file in mine]
        self.identities = [file.identity for mine in files for file in mine]
        self.sizes = [file.size for mine in files for file in mine]
        labels = [label for label, mine in enumerate(files) for _ in mine]
        self.labels = torch.tensor(labels, dtype=torch.int64)
        facts = [(str(f.path.relative_to(root)), f.size, f.modified) for mine in files for f in mine]
        self.key = digest("folder", VERSION, exif, facts, labels)

    @classmethod
    def read(cls, root: Path, classes: tuple[str, ...] | None = None, exif: bool = False) -> Listing:
        """Lists ``root``.

        Args:
            root: a folder of class folders.
            classes: the classes of the training folder, which every other folder must have; None
                to take the classes that are found.
            exif: turn pictures upright by their EXIF orientation.

        Raises:
            UserError: if there are no classes, only one class, other classes than ``classes``, or
                an empty class.
        """
        found = {path.name: path for path in subfolders(root)}
        if not found:
            raise UserError(f"{root} holds no class folders", "put the images of each class into a separate folder")
        if classes is not None and (unknown := sorted(set(found) - set(classes))):
            raise UserError(f"{root} has a class '{unknown[0]}' that the training folder does not have")
        if classes is None and len(found) == 1:
            raise UserError(f"{root} has one class only, '{next(iter(found))}'", "a classifier needs at least two")
        files: dict[str, list[Found]] = {}
        for name, folder in found.items():
            files[name] = pictures_in(folder)
            if not files[name] and classes is None:
                raise UserError(f"the class folder {folder} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
        if not any(files.values()):
            raise UserError(f"{root} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
        files = without_duplicates(files)
        wanted = tuple(sorted(found)) if classes is None else classes
        return cls(root, [files.get(name, []) for name in wanted], wanted, exif)

    def __len__(self) -> int:
        return len(self.files)

    def verify(self) -> None:
        """Decodes every file, unless this was done before.

        Raises:
            UserError: naming a file that cannot be read.
        """
        log.debug("verifying %d images in %s", len(self), self.root)
        verify(self._check, len(self), self.key, str(self.root.resolve()))

    def _check(self, index: int) -> None:
        check_picture(self.files[index], str(self.files[index]), self.exif)

    def picture(self, index: int) -> Image.Image:
        """Reads one file."""
        return open_picture(self.files[index], str(self.files[index]), self.exif)

    def split(self, info: DataInfo) -> DatasetSplit:
        """All files, as a split."""
        return DatasetSplit(self, self.labels, info)


def without_duplicates(files: dict[str, list[Found]]) -> dict[str, list[Found]]:
    """Keeps each file only once in its class.

    Two links to one picture could put it into both the training and the test images.

    Raises:
        UserError: if a link to a folder puts the pictures of one class into another.
    """
    if len({file.identity for mine in files.values() for file in mine}) == sum(map(len, files.values())):
        return files
    first: dict[tuple[int, int], tuple[str, Found]] = {}
    kept: dict[str, list[Found]] = {}
    for name, mine in files.items():
        known: set[tuple[int, int]] = set()
        for file in mine:
            label, other = first.setdefault(file.identity, (name, file))
            # Links to single files are allowed in several classes: in stores that name pictures by
            # content, equal pictures are one file.
            if label != name and (file.behind_link or other.behind_link):
                paths = f"{other.path} and {file.path}"
                raise UserError(f"{paths} are the same picture in two classes", "remove the link between their folders")
            if file.identity not in known:
                known.add(file.identity)
                kept.setdefault(name, []).append(file)
    left_out = sum(map(len, files.values())) - sum(map(len, kept.values()))
    if left_out:
        log.info("%d links to pictures that are listed already are left out", left_out)
    return kept

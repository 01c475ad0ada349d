"""folder:PATH: the user's own images, one folder a class (ImageFolder's layout)."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
import torch
from PIL import Image

from autocompress.data.pictures import DatasetSplit, check_picture, measured, open_picture
from autocompress.data.provider import DatasetProvider, Source
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import cache_folder, digest, write_json

log = logging.getLogger("autocompress")

PREFIX = "folder:"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
ROLES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
READERS = 4
"""Threads that verify images; decoding runs outside Python's lock."""


class Folder(DatasetProvider):
    """``PATH/train``, ``PATH/val`` (or ``validation``) and ``PATH/test`` with a folder a class in each; or the classes
    right under ``PATH``, and the engine splits them."""

    name = "folder:PATH"

    def claims(self, spec: str) -> bool:
        return spec.startswith(PREFIX)

    def load(self, spec: str) -> Source:
        root = Path(spec.removeprefix(PREFIX)).expanduser()
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", "data: folder:PATH wants a folder of class folders")
        folders = {role: _first_folder(root, names) for role, names in ROLES.items()}
        train = Listing.read(folders["train"] or root)
        held: dict[str, Listing] = {}
        for role in ("val", "test") if folders["train"] else ():
            if (folder := folders[role]) is not None:
                held[role] = Listing.read(folder, train.classes)
        for listing in (train, *held.values()):
            listing.verify()
        info = measured(train, DataInfo(len(train.classes), 3, (224, 224), (), (), train.classes))
        val, test = (held[role].split(info) if role in held else None for role in ("val", "test"))
        return Source(train.split(info), val, test, info)


class Listing:
    """The image files under one folder of class folders, sorted.

    Attributes:
        classes: names of the class folders, sorted.
        key: changes with names, sizes and times of the files.
    """

    def __init__(self, root: Path, files: list[Path], labels: list[int], classes: tuple[str, ...]) -> None:
        self.root, self.files, self.classes = root, files, classes
        self.labels = torch.tensor(labels, dtype=torch.int64)
        facts = [(str(f.relative_to(root)), s.st_size, s.st_mtime_ns) for f, s in ((f, f.stat()) for f in files)]
        self.key = digest("folder", facts)

    @classmethod
    def read(cls, root: Path, classes: tuple[str, ...] | None = None) -> Listing:
        """Lists ``root``.

        Args:
            root: a folder of class folders.
            classes: those of the training folder, which every other one must have; None to take what is there.

        Raises:
            UserError: if there are no classes, only one, other ones than wanted, or one of them is empty.
        """
        found = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not found:
            raise UserError(f"{root} holds no class folders", "put the images of each class into a folder of its own")
        if classes is not None and (unknown := sorted(set(found) - set(classes))):
            raise UserError(f"{root} has a class '{unknown[0]}' that the training folder has not")
        if classes is None and len(found) == 1:
            raise UserError(f"{root} has one class only, '{found[0]}'", "a classifier needs at least two")
        files: list[Path] = []
        labels: list[int] = []
        wanted = found if classes is None else classes
        for name in found:
            mine = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            if not mine and classes is None:
                raise UserError(
                    f"the class folder {root / name} holds no images", f"known: {', '.join(sorted(SUFFIXES))}"
                )
            files += mine
            labels += [wanted.index(name)] * len(mine)
        if not files:
            raise UserError(f"{root} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
        return cls(root, files, labels, wanted)

    def __len__(self) -> int:
        return len(self.files)

    def verify(self) -> None:
        """Decodes every file once: a corrupt test image must not come to light at the end of a search.

        Success is remembered in the cache folder under the listing's key, so that the next start only lists the files.

        Raises:
            UserError: naming a file that cannot be read.
        """
        key = digest("verified", PIL.__version__, str(self.root.resolve()), self.key)
        mark = cache_folder() / "verified" / f"{key}.json"
        if mark.exists():
            return
        log.info("verifying %d images in %s", len(self), self.root)
        parts = [self.files[start : start + 64] for start in range(0, len(self), 64)]
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(_check_all, parts):
                pass  # the first fault is raised here; what has not begun is cancelled
        write_json(mark, {"folder": str(self.root.resolve()), "images": len(self)})

    def picture(self, index: int) -> Image.Image:
        """Reads one file."""
        return open_picture(self.files[index], str(self.files[index]))

    def split(self, info: DataInfo) -> DatasetSplit:
        """All files, as a split."""
        return DatasetSplit(self, self.labels, info)


def _check_all(files: list[Path]) -> None:
    for file in files:
        check_picture(file, str(file))


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)

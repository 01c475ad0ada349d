"""Lists the pictures below a folder of class folders; the listing of a large folder is kept."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from autocompress.data import listings
from autocompress.data.decoding import VERSION, check_picture, open_picture
from autocompress.data.files import Files, Paths, repeated
from autocompress.data.pictures import DatasetSplit
from autocompress.data.scanning import SUFFIXES, Scanned, pictures_in, subfolders
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.files import digest

log = logging.getLogger("autocompress")


class Listing:
    """The image files under one folder of class folders, sorted.

    Args:
        root: the folder.
        found: the files.
        classes: names of the class folders, sorted.
        exif: turn pictures upright by their EXIF orientation.

    Attributes:
        files: the path of each file.
        place: the folder, without links.
        identities: device and inode of each file, int64 ``(N, 2)``.
        sizes: size of each file in bytes, int64.
        key: changes with names, sizes and times of the files, and with how they are read.
        watch: for a listing from the cache, its comparison with the folder, which runs in the
            background.
    """

    def __init__(
        self,
        root: Path,
        found: Files,
        classes: tuple[str, ...],
        exif: bool = False,
        watch: listings.Watch | None = None,
        key: str | None = None,
    ) -> None:
        self.root, self.classes, self.exif, self.watch = root, classes, exif, watch
        self.files, self.place = Paths(root, found), str(root.resolve())
        self.identities, self.sizes = found.identities, found.sizes
        self.labels = torch.from_numpy(np.array(found.labels))
        self.key = digest("folder", VERSION, exif, key or found.key)

    @classmethod
    def read(cls, root: Path, classes: tuple[str, ...] | None = None, exif: bool = False) -> Listing:
        """Lists ``root``, or takes the listing that is kept of it.

        Args:
            root: a folder of class folders.
            classes: the classes of the training folder, which every other folder must have; None
                to take the classes that are found.
            exif: turn pictures upright by their EXIF orientation.

        Raises:
            UserError: if there are no classes, only one class, other classes than ``classes``, or
                an empty class.
        """
        if (kept := listings.kept(root, classes)) is not None:
            return cls(root, kept.files, kept.classes, exif, kept.watch, kept.key)
        found = {path.name: path for path in subfolders(root)}
        if not found:
            raise UserError(f"{root} holds no class folders", "put the images of each class into a separate folder")
        if classes is not None and (unknown := sorted(set(found) - set(classes))):
            raise UserError(f"{root} has a class '{unknown[0]}' that the training folder does not have")
        if classes is None and len(found) == 1:
            raise UserError(f"{root} has one class only, '{next(iter(found))}'", "a classifier needs at least two")
        wanted = tuple(sorted(found)) if classes is None else classes
        began = listings.now()
        scanned = [pictures_in(found[name], root, label) for label, name in enumerate(wanted) if name in found]
        for name, one in zip([name for name in wanted if name in found], scanned, strict=True):
            if not len(one.files) and classes is None:
                raise UserError(
                    f"the class folder {found[name]} holds no images", f"known: {', '.join(sorted(SUFFIXES))}"
                )
        if not any(len(one.files) for one in scanned):
            raise UserError(f"{root} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
        files = without_duplicates(root, scanned)
        key = listings.keep(root, classes, wanted, files, [facts for one in scanned for facts in one.folders], began)
        return cls(root, listings.mapped(root, classes) or files, wanted, exif, None, key)

    @property
    def changed(self) -> str:
        """What changed in the folder since it was listed, as far as it is known."""
        return "" if self.watch is None else self.watch.found

    def __len__(self) -> int:
        return len(self.files)

    def check(self, index: int) -> None:
        """Decodes one file to its last byte.

        Raises:
            UserError: if it cannot be read.
        """
        check_picture(self.files[index], str(self.files[index]), self.exif)

    def picture(self, index: int) -> Image.Image:
        """Reads one file."""
        return open_picture(self.files[index], str(self.files[index]), self.exif)

    def split(self, info: DataInfo) -> DatasetSplit:
        """All files, as a split."""
        return DatasetSplit(self, self.labels, info)


def without_duplicates(root: Path, scanned: list[Scanned]) -> Files:
    """Keeps each file only once in its class.

    Two links to one picture could put it into both the training and the test images.

    Raises:
        UserError: if a link to a folder puts the pictures of one class into another.
    """
    files = Files.joined([one.files for one in scanned])
    twins = np.flatnonzero(repeated(files.identities))
    if not len(twins):
        return files
    behind_link = np.concatenate([one.behind_link for one in scanned])
    first: dict[tuple[int, int], int] = {}
    known: set[tuple[int, int, int]] = set()
    kept = np.ones(len(files), bool)
    for index in twins.tolist():
        device, inode = files.identities[index].tolist()
        other, label = first.setdefault((device, inode), index), int(files.labels[index])
        # Links to single files are allowed in several classes: in stores that name pictures by
        # content, equal pictures are one file.
        if files.labels[other] != label and (behind_link[index] or behind_link[other]):
            paths = f"{root / files.name(other)} and {root / files.name(index)}"
            raise UserError(f"{paths} are the same picture in two classes", "remove the link between their folders")
        kept[index] = (device, inode, label) not in known
        known.add((device, inode, label))
    if not kept.all():
        log.info("%d links to pictures that are listed already are left out", int((~kept).sum()))
    return files.at(kept)

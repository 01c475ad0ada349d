"""Any data set of timm's ``create_dataset``: torch/cifar10, hfds/NAME, wds/NAME, tfds/NAME."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from autocompress.data.folder import PREFIX as FOLDER
from autocompress.data.folder import Folder
from autocompress.data.named import Named
from autocompress.data.pictures import measured, notes_on, sampled
from autocompress.data.provider import DatasetProvider, LoadOptions, Source
from autocompress.data.split import DataInfo
from autocompress.data.splitnames import NAMES, role_of
from autocompress.data.torchvision_layout import lacking, layout
from autocompress.errors import UserError
from autocompress.files import cache_folder
from autocompress.job import absolute

log = logging.getLogger("autocompress")

PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
FOLDERS = ("torch/image_folder", "torch/folder")
"""torchvision's ImageFolder, which is ``folder:`` by another name."""
READ_AS_IT_IS = ("torch/", "wds/")
"""Where the folder after ``@`` holds the data. Elsewhere it is the library's cache, which it makes
itself."""
DEFAULT_NAMES = {"train": "train", "val": "validation", "test": "test"}
UNKNOWN_SPLIT = re.compile(r"(unknown|bad|no) split|split \S+ not found", re.IGNORECASE)
"""How the libraries say that a data set lacks a split."""


class TimmNames(DatasetProvider):
    """``torch/cifar10``, ``hfds/...``, ``wds/...``; with a root folder after an ``@``:
    ``torch/cifar10@/data/cifar``.

    Without a root it is downloaded into the cache folder where timm can do so.
    """

    name = "torch/cifar10, hfds/NAME, wds/NAME"

    def claims(self, spec: str) -> bool:
        return spec.lower().startswith(PREFIXES)

    def anchored(self, spec: str) -> str:
        name, _, root = spec.partition("@")
        return f"{name}@{absolute(root)}" if root and ":" not in root else spec  # wds/ takes addresses and pipes

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        name, _, root = spec.partition("@")
        if name.lower() in FOLDERS:
            if not root:
                raise UserError(f"'{spec}' names no folder", f"write {name}@FOLDER, or folder:PATH")
            return Folder().open(FOLDER + root, options)
        is_address = ":" in root  # which wds/ takes too
        is_read = name.lower().startswith(READ_AS_IT_IS) and root and not is_address
        if is_read and not Path(root).expanduser().exists():
            raise UserError(f"'{spec}': there is no folder {root}")
        names = _split_names(name)
        parts: dict[str, Named] = {}
        if options.train:
            parts["train"] = _open(spec, names.get("train", "train"), options.exif)
        for role in ("val", "test"):
            if role in names and (part := _find(spec, names[role], options.exif)) is not None:
                parts[role] = part
        notes: tuple[str, ...] = ()
        if not parts:
            parts["train"] = _open(spec, names.get("train", "train"), options.exif)
            notes = (f"'{spec}' has training images only, but the job takes them as held-out ones",)
        first = next(iter(parts.values()))
        for part in parts.values():
            part.verify()
        images = sampled(first)
        info = measured(images, DataInfo(len(first.classes), 3, (224, 224), (), (), first.classes))
        train, val, test = (parts[role].split(info) if role in parts else None for role in ("train", "val", "test"))
        return Source(train, val, test, info, (*notes, *notes_on(images)))


def _split_names(name: str) -> dict[str, str]:
    """The data set's name of the split for each role."""
    prefix, _, path = name.partition("/")
    if prefix.lower() == "torch":
        # torchvision's sets have two splits; the second is what papers report on, so it is the test
        # split.
        return {"train": "train", "test": "validation"}
    if prefix.lower() not in ("hfds", "hfids"):
        return DEFAULT_NAMES
    try:
        from datasets import get_dataset_split_names
    except ImportError as error:
        raise UserError(f"'{name}' needs the package 'datasets'", "pip install datasets") from error
    try:
        found = [str(split) for split in get_dataset_split_names(path)]
    except Exception:  # whatever hub and network raise; the data set may be in the cache all the same
        return DEFAULT_NAMES
    # In the order of preference of NAMES, where a data set has several of one role.
    order = {spelling: number for number, spelling in enumerate(s for names in NAMES.values() for s in names)}
    found.sort(key=lambda split: order.get(split.casefold(), len(order)))
    return {role: split for split in reversed(found) if (role := role_of(split)) is not None}


def _open(spec: str, split: str, exif: bool) -> Named:
    """Opens the split, downloading it where it has to be.

    Raises:
        UserError: if timm cannot give it.
    """
    found = _try(spec, split, exif)
    if isinstance(found, Exception):
        raise _unloadable(spec, split, found) from found
    return found


def _find(spec: str, split: str, exif: bool) -> Named | None:
    """Opens a held-out split; None where the data set has none of that name, or one without labels.

    Raises:
        UserError: if it is there, but cannot be read.
    """
    found = _try(spec, split, exif)
    if isinstance(found, Exception):
        if UNKNOWN_SPLIT.search(str(found)):
            return None
        raise _unloadable(spec, split, found) from found
    if len(found) and bool((found.labels < 0).all()):
        log.warning("%s has no labels and is left out", found.name)
        return None
    return found


def _try(spec: str, split: str, exif: bool) -> Named | Exception:
    """The split, or what the library raised."""
    from timm.data import create_dataset

    name, _, root = spec.partition("@")
    if root:
        folder = root if ":" in root else str(Path(root).expanduser())
    else:
        folder = str(cache_folder("data") / name.replace("/", "-"))
    try:
        # A root that the user names is read as it is; only our own folder is filled. tfds gives
        # arrays unless it is told a mode; all others give pictures as stored, so that grey stays
        # grey.
        mode = "RGB" if spec.lower().startswith("tfds/") else ""
        dataset = create_dataset(name, root=folder, split=split, download=not root, input_img_mode=mode)
        return Named(spec, split, dataset, exif)
    except UserError:
        raise
    except Exception as error:  # readers raise whatever their library raises
        return error


def _unloadable(spec: str, split: str, error: Exception) -> UserError:
    """The error for a data set that cannot be opened, with the expected layout if it is known."""
    name, _, root = spec.partition("@")
    what = f"'{spec}', split '{split}'"
    lines = str(error).strip().splitlines()
    text = f"timm cannot load {what}: {lines[0] if lines else type(error).__name__}"
    if isinstance(error, ImportError) and error.name:
        return UserError(f"'{name}' needs the package '{error.name}'", f"pip install {error.name}")
    wanted = layout(name)
    if root:
        if (missing := lacking(name, Path(root).expanduser())) is not None:
            return UserError(f"timm cannot load {what}: there is no {missing}", f"the folder after @ holds {wanted}")
        return UserError(text, f"the folder after @ holds {wanted}" if wanted else "check the folder after @")
    holds = f", which holds {wanted}" if wanted else ""
    return UserError(text, f"check the name and the network, or give its folder: {name}@FOLDER{holds}")

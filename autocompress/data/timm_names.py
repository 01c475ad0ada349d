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
from autocompress.data.shards import Shards, shards_of
from autocompress.data.split import DataInfo
from autocompress.data.splitnames import NAMES, role_of
from autocompress.data.torchvision_layout import lacking, layout
from autocompress.errors import UserError
from autocompress.files import cache_folder
from autocompress.job import absolute, below

log = logging.getLogger("autocompress")

PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
FOLDERS = ("torch/image_folder", "torch/folder")
"""torchvision's ImageFolder, which is the same as ``folder:``."""
READ_AS_IT_IS = ("torch/", "wds/")
"""Libraries for which the folder after ``@`` holds the data; for other libraries it is a cache."""
DEFAULT_NAMES = {"train": "train", "val": "validation", "test": "test"}
UNKNOWN_SPLIT = re.compile(r"(unknown|bad|no) split|split \S+ not found", re.IGNORECASE)
"""Messages of the libraries for a missing split."""
Opened = Named | Shards


class TimmNames(DatasetProvider):
    """``torch/cifar10``, ``hfds/...``, ``wds/...``, or with a folder ``torch/cifar10@/data/cifar``.

    Without a folder the data set is downloaded into the cache folder, where timm supports that.
    """

    name = "torch/cifar10, hfds/NAME, wds/NAME"

    def claims(self, spec: str) -> bool:
        return spec.lower().startswith(PREFIXES)

    def anchored(self, spec: str) -> str:
        name, _, root = spec.partition("@")
        return f"{name}@{absolute(root)}" if root and ":" not in root else spec  # wds/ takes addresses and pipes

    def rooted(self, spec: str, root: Path | None) -> str:
        name, _, place = spec.partition("@")
        return spec if root is None or ":" in place else f"{name}@{below(root, place)}"

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        name, _, root = spec.partition("@")
        if name.lower() in FOLDERS:
            if not root:
                raise UserError(f"'{spec}' names no folder", f"write {name}@FOLDER, or folder:PATH")
            return Folder().open(FOLDER + root, options)
        is_address = ":" in root  # wds/ takes addresses too
        is_read = name.lower().startswith(READ_AS_IT_IS) and root and not is_address
        if is_read and not Path(root).expanduser().exists():
            raise UserError(f"'{spec}': there is no folder {root}")
        names = _split_names(name)
        parts: dict[str, Opened] = {}
        if options.train:
            parts["train"] = _open(spec, names.get("train", "train"), options.exif)
        for role in ("val", "test"):
            if role in names and (part := _find(spec, names[role], options.exif)) is not None:
                parts[role] = part
        notes: tuple[str, ...] = ()
        if not parts:
            parts["train"] = _open(spec, names.get("train", "train"), options.exif)
            notes = (f"'{spec}' has only training images; the job validates or tests with them",)
        first = next(iter(parts.values()))
        images = sampled(first, options.skips)
        info = measured(images, DataInfo(len(first.classes), 3, (224, 224), (), (), first.classes))
        train, val, test = (parts[role].split(info) if role in parts else None for role in ("train", "val", "test"))
        return Source(train, val, test, info, (*notes, *notes_on(images)))


def _split_names(name: str) -> dict[str, str]:
    """Maps each role to the data set's own name for its split."""
    prefix, _, path = name.partition("/")
    if prefix.lower() == "torch":
        # torchvision's data sets have two splits. Papers report on the second one, so it is the
        # test split.
        return {"train": "train", "test": "validation"}
    if prefix.lower() not in ("hfds", "hfids"):
        return DEFAULT_NAMES
    try:
        from datasets import get_dataset_split_names
    except ImportError as error:
        raise UserError(f"'{name}' needs the package 'datasets'", "pip install datasets") from error
    try:
        found = [str(split) for split in get_dataset_split_names(path)]
    except Exception:  # hub and network raise many types; the data set may still be in the cache
        return DEFAULT_NAMES
    # Where a data set has several splits of one role, the order of NAMES decides.
    order = {spelling: number for number, spelling in enumerate(s for names in NAMES.values() for s in names)}
    found.sort(key=lambda split: order.get(split.casefold(), len(order)))
    return {role: split for split in reversed(found) if (role := role_of(split)) is not None}


def _open(spec: str, split: str, exif: bool) -> Opened:
    """Opens the split; downloads it if necessary.

    Raises:
        UserError: if timm cannot open it.
    """
    found = _try(spec, split, exif)
    if isinstance(found, Exception):
        raise _unloadable(spec, split, found) from found
    return found


def _find(spec: str, split: str, exif: bool) -> Opened | None:
    """Opens a held-out split; None where there is no such split, or it has no labels.

    Raises:
        UserError: if it exists, but cannot be read.
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


def _try(spec: str, split: str, exif: bool) -> Opened | Exception:
    """The split, or the exception of the library."""
    from timm.data import create_dataset

    name, _, root = spec.partition("@")
    if root:
        folder = root if ":" in root else str(Path(root).expanduser())
    else:
        folder = str(cache_folder("data") / name.replace("/", "-"))
    try:
        # ``download`` is off for a folder that the user names. hfds/ ignores that and may download
        # into the folder, which is its cache. tfds gives arrays unless a mode is set; the other
        # libraries keep the stored mode, so grey pictures stay grey.
        mode = "RGB" if spec.lower().startswith("tfds/") else ""
        dataset = create_dataset(name, root=folder, split=split, download=not root, input_img_mode=mode)
        if spec.lower().startswith("wds/"):
            shards = shards_of(f"'{spec}', split '{split}'", dataset, exif)
            if shards is not None:
                return shards
        return Named(spec, split, dataset, exif)
    except UserError:
        raise
    except Exception as error:  # each library raises other types
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

"""folder:PATH: the user's own images, one folder a class (ImageFolder's layout)."""

from __future__ import annotations

from pathlib import Path

from autocompress.data import listings
from autocompress.data.listing import Listing
from autocompress.data.pictures import measured, notes_on, sampled
from autocompress.data.provider import AtPath, LoadOptions, Source
from autocompress.data.scanning import contents, holds_pictures, subfolders
from autocompress.data.split import DataInfo
from autocompress.data.splitnames import role_of, roles_within
from autocompress.errors import UserError

PREFIX = "folder:"


class Folder(AtPath):
    """Class folders in ``PATH/train``, ``PATH/val`` and ``PATH/test``, or right under ``PATH``.

    Other common names of splits are known too. Classes directly under ``PATH`` are split by the
    engine.
    """

    name = "folder:PATH"
    prefix = PREFIX

    def load(self, spec: str) -> Source:
        return self.open(spec, LoadOptions())

    def open(self, spec: str, options: LoadOptions) -> Source:
        root = self.path(spec)
        if not root.is_dir():
            raise UserError(f"there is no folder {root}", "data: folder:PATH needs a folder of class folders")
        folders = split_folders(root)
        held_out = {role: folders[role] for role in ("val", "test") if role in folders}
        for place in folders.values() or [root]:
            if not listings.is_kept(place):
                refuse_splits_as_classes(place)
        with_training = options.train or not held_out
        if "train" in folders or not folders:
            training = folders.get("train", root)
            classes = tuple(path.name for path in subfolders(training))
            found = {"train": Listing.read(training, exif=options.exif)} if with_training else {}
        else:
            classes = tuple(sorted({path.name for folder in held_out.values() for path in subfolders(folder)}))
            found = {}
        if len(classes) == 1:
            place = folders.get("train", root)
            raise UserError(f"{place} has one class only, '{classes[0]}'", "a classifier needs at least two")
        found |= {role: Listing.read(folder, classes, options.exif) for role, folder in held_out.items()}
        images = sampled(next(iter(found.values())), options.skips)
        info = measured(images, DataInfo(len(classes), 3, (224, 224), (), (), classes))
        train, val, test = (found[role].split(info) if role in found else None for role in ("train", "val", "test"))
        notes = (*_notes(root, folders, classes, options), *notes_on(images))
        return Source(train, val, test, info, notes)


def _notes(root: Path, folders: dict[str, Path], classes: tuple[str, ...], options: LoadOptions) -> tuple[str, ...]:
    if not folders:
        return ()
    notes = []
    if not options.train and list(folders) == ["train"]:
        notes.append(f"{folders['train']} holds training images by its name, but the job takes them as held-out ones")
    for path in subfolders(root):
        if path in folders.values():
            continue
        if set(classes) <= {child.name for child in subfolders(path)}:
            notes.append(f"{path} holds the same classes, but is not read: its name is not that of a split")
        elif holds_pictures(path):
            notes.append(f"{path} holds images, but is not read: its name is not that of a split")
    return tuple(notes)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in ``root`` that hold splits, by role; empty where its folders are classes.

    A folder is a split if it has the name of a split and holds class folders. A folder ``train``
    that holds pictures, next to ``bus`` and ``car``, is a class.

    Raises:
        UserError: if that cannot be decided, or two folders are the same split.
    """
    named: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in subfolders(root):
        if (role := role_of(path.name)) is None:
            others.append(path)
        else:
            named.setdefault(role, []).append(path)
    nested = {role: paths for role, paths in named.items() if any(subfolders(path) for path in paths)}
    if not nested and others:
        return {}
    for paths in named.values():
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} are the same split by their names", "rename or merge them")
    folders = {role: paths[0] for role, paths in named.items()}
    if named and not nested:
        which = " and ".join(map(str, folders.values()))
        hint = "a folder with the name of a split needs one folder per class; give classes other names"
        raise UserError(f"{which} hold{'s' if len(folders) == 1 else ''} no class folders", hint)
    if folders and "train" not in folders and others:
        held_out, name = next(iter(folders.values())), others[0].name
        hint = f"put '{name}' and the other class folders into {root / 'train'}"
        raise UserError(f"{held_out} holds class folders, but the class folder '{name}' is next to it", hint)
    return folders


def refuse_splits_as_classes(folder: Path) -> None:
    """Refuses class folders that are probably splits under unknown names, such as ``train2017``.

    Raises:
        UserError: if all folders have names that contain names of splits, if all hold the same
            folders, or if one holds folders of splits.
    """
    found = {path.name: contents(path) for path in subfolders(folder)}
    inside = [names for names, _ in found.values()]
    hint = "name the split folders train, val and test and give the folder above them, or give a folder for each role"
    for name, (names, _) in found.items():
        if "train" in (roles := {role_of(child) for child in names}) and roles & {"val", "test"}:
            which = " and ".join(sorted(child for child in names if role_of(child)))
            raise UserError(f"{folder / name} holds the split folders {which}, so it is not a class", hint)
    if len(found) < 2:
        return
    named = [roles_within(name) for name in found]
    if all(named) and len(set().union(*named)) > 1:
        raise UserError(f"the folders {_some(set(found))} in {folder} look like splits, not classes", hint)
    common = set.intersection(*inside)
    split_names = bool(common) and all(role_of(name) for name in common)
    loose = all(has_pictures for _, has_pictures in found.values())
    if split_names or (len(common) > 1 and not loose):
        same = f"the folders {_some(set(found))} in {folder} all hold the folders {_some(common)}"
        hint += "; if they are classes, put pictures directly into each of them"
        raise UserError(f"{same}: they look like splits, not classes", hint)


def _some(names: set[str]) -> str:
    """The first three names in order, with a mark if there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (" and so on" if len(ordered) > 3 else "")

"""The listing of a large folder is stored, and valid until the folder changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autocompress import data
from autocompress.data import listing, listings
from autocompress.data.files import Files, repeated
from autocompress.data.listing import Listing
from autocompress.errors import UserError
from autocompress.files import cache_folder
from autocompress.job import DataConfig

OLD = 1_600_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes that counts as large and has not changed for years."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listings, "LEAST", 10)
    for number, name in enumerate(("a/deep", "b")):
        (tmp_path / "x" / name).mkdir(parents=True)
        for picture in range(12):
            Image.new("L", (8, 8), 20 * picture + number).save(tmp_path / "x" / name / f"{picture}.png")
    return aged(tmp_path / "x")


def aged(root: Path) -> Path:
    """``root`` with folders that changed long ago."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (OLD, OLD))
    return root


def names(found: Listing) -> list[str]:
    return [str(path.relative_to(found.root)) for path in found.files]


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes listing a folder an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("the folder was listed")

    monkeypatch.setattr(listing, "pictures_in", refuse)


def test_an_unchanged_folder_is_not_listed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(DataConfig(train=f"folder:{root}"))
    unread(monkeypatch)
    again = data.load(DataConfig(train=f"folder:{root}"))
    assert again.digest == first.digest
    assert again.info.class_names == ("a", "b")


@pytest.mark.parametrize("change", ["add", "remove", "rename", "class"])
def test_a_change_of_a_folder_is_noticed_at_once(root: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "SETTLED_S", 600.0)  # longer than this test on a busy machine
    before = Listing.read(root)
    if change == "add":
        shutil.copy(root / "b" / "0.png", root / "a" / "deep" / "new.png")
    elif change == "remove":
        (root / "a" / "deep" / "3.png").unlink()
    elif change == "rename":
        (root / "b" / "3.png").rename(root / "b" / "03.png")
    else:
        shutil.copytree(root / "b", root / "c")
    after = Listing.read(root)
    assert names(after) != names(before)
    assert after.key != before.key
    assert not listings.is_kept(root), "a folder that has just changed may change again unnoticed"


def test_a_picture_written_in_place_is_found_in_the_background(root: Path) -> None:
    Listing.read(root)
    split = data.load(DataConfig(train=f"folder:{root}")).train
    (root / "b" / "5.png").write_bytes(b"something else")
    aged(root)
    assert split.pictures.watch.found == ""  # type: ignore[attr-defined]
    split.pictures.watch.compare()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"b/5\.png has changed since its folder was listed"):
        list(split.loader(4))
    assert not listings.is_kept(root)


def test_a_listing_is_compared_once_per_hour(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Listing.read(root)
    begun: list[listings.Watch] = []
    monkeypatch.setattr(listings.Watch, "compare", lambda watch: begun.append(watch))
    Listing.read(root)
    assert not begun, "it was just made"
    monkeypatch.setattr(listings, "RECHECKED_S", 0.0)
    found = Listing.read(root)
    assert begun == [found.watch]
    Listing.read(root)
    assert len(begun) == 1, "a comparison is running"


def test_a_comparison_that_ended_with_its_process_is_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Listing.read(root)
    (home,) = (path for path in cache_folder("listings").iterdir() if path.is_dir())
    os.utime(home / listings.CHECKED, (OLD, OLD))
    compare, begun = listings.Watch.compare, list[listings.Watch]()
    monkeypatch.setattr(listings.Watch, "compare", lambda watch: begun.append(watch))
    Listing.read(root)  # and the process ends
    os.utime(home / listings.COMPARING, (OLD, OLD))
    Listing.read(root)
    assert len(begun) == 2
    compare(begun[1])
    os.utime(home / listings.COMPARING, (OLD, OLD))
    Listing.read(root)
    assert len(begun) == 2, "this one has ended, within the hour"


def test_every_process_notices_a_change(root: Path) -> None:
    Listing.read(root)
    one, other = Listing.read(root), Listing.read(root)
    before = (root / "b" / "5.png").read_bytes(), (root / "b" / "5.png").stat().st_mtime_ns
    (root / "b" / "5.png").write_bytes(b"something else")
    assert other.watch is not None
    assert one.watch is not None
    assert not one.changed
    other.watch.compare()
    assert "b/5.png has changed" in one.changed
    assert not Listing.read(root).changed, "it is listed again"
    (root / "b" / "5.png").write_bytes(before[0])
    os.utime(root / "b" / "5.png", ns=(before[1], before[1]))
    aged(root)
    listings.shutil.rmtree(one.watch.home, ignore_errors=True)
    Listing.read(root)
    assert not Listing.read(root).changed, "the files are as they were"


def test_small_folders_are_listed_each_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "LEAST", 25)
    Listing.read(root)
    assert not listings.is_kept(root)


def test_a_damaged_listing_is_made_again(root: Path, tmp_path: Path) -> None:
    before = Listing.read(root)
    (kept,) = (tmp_path / "cache" / "listings").iterdir()
    (kept / "ends.npy").write_bytes(b"nonsense")
    assert Listing.read(root).key == before.key


def test_held_out_folders_have_the_classes_of_training(root: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(root, whole / "train")
    shutil.copytree(root / "b", whole / "val" / "b")
    aged(whole)
    for _ in range(2):
        splits = data.load(DataConfig(train=f"folder:{whole}"))
        assert set(splits.val.labels().tolist()) == {1}


def test_joined_files_keep_their_names_and_facts(tmp_path: Path) -> None:
    facts = np.array([[3, 5, 1, 7], [4, 6, 1, 8], [5, 7, 1, 7]], np.int64)
    files = Files.joined([Files.of(["ä.png", "b/c.png", "d"], facts, 0), Files.of([], facts[:0], 1)])
    assert [files.name(number) for number in range(3)] == ["ä.png", "b/c.png", "d"]
    assert repeated(files.identities).tolist() == [True, False, True]
    part = files.at(np.array([False, True, True]))
    assert [part.name(number) for number in range(2)] == ["b/c.png", "d"]
    assert (part.sizes.tolist(), part.key == files.key) == ([4, 5], False)

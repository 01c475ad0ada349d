"""folder:PATH: splits, classes, and the pictures of a class."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autocompress import data
from autocompress.data import Split, overlap
from autocompress.data.splitnames import NAMES, role_of
from autocompress.errors import UserError
from autocompress.job import DataConfig


def paint(folder: Path, count: int, level: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(folder.name.encode()) + level)
    for number in range(count):
        pixels = np.clip(random.normal(level, 20, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def classes(root: Path, count: int = 10, names: tuple[str, ...] = ("dark", "light")) -> Path:
    for number, name in enumerate(names):
        paint(root / name, count, 60 + 120 * number)
    return root


def load(root: Path, **words: str) -> data.Splits:
    return data.load(DataConfig(**(words or {"train": f"folder:{root}"})))


def above(split: Split) -> set[str]:
    """Names of the folders that contain the class folders of a split."""
    return {file.parent.parent.name for file in files(split)}


def files(split: Split) -> list[Path]:
    return [split.pictures.files[i] for i in split.indices.tolist()]  # type: ignore[attr-defined]


def all_files(splits: data.Splits) -> list[Path]:
    return [file for split in (splits.train, splits.val, splits.test) for file in files(split)]


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("Training", "Validation", "Testing"),
        ("training_set", "validation_set", "test_set"),
        ("Train Images", "dev", "test-split"),
        ("trainset", "Eval", "testset"),
    ],
)
def test_split_folders_are_recognised_by_their_usual_names_in_any_case(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    for name, count in ((train, 10), (val, 4), (test, 3)):
        classes(tmp_path / name, count)
    splits = load(tmp_path)
    assert [above(part) for part in (splits.train, splits.val, splits.test)] == [{train}, {val}, {test}]
    assert splits.info.class_names == ("dark", "light")


@pytest.mark.parametrize("held_out", ["Test", "TESTING", "valid", "Dev", "evaluation"])
def test_a_held_out_folder_is_used(tmp_path: Path, held_out: str) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / held_out, 4)
    splits = load(tmp_path)
    assert above(splits.train) == {"train"}
    taken = splits.test if role_of(held_out) == "test" else splits.val
    assert (above(taken), len(taken)) == ({held_out}, 8)


@pytest.mark.parametrize("spelling", [name for names in NAMES.values() for name in names])
def test_every_name_of_a_split_has_one_role(spelling: str) -> None:
    assert role_of(spelling) == role_of(spelling.upper()) == role_of(f"{spelling}_set") is not None
    assert role_of(f"{spelling}x") is None


@pytest.mark.parametrize("names", [("train", "Training"), ("TEST", "testing"), ("val", "dev")])
def test_two_folders_for_the_same_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in {*names, "train"}:
        classes(tmp_path / name, 4)
    with pytest.raises(UserError, match="are the same split by their names"):
        load(tmp_path)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Training", "Testing"), ("val", "test"), ("train", "val", "test")]
)
def test_folders_that_are_all_named_like_splits_are_refused_as_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"holds? no class folders"):
        load(classes(tmp_path, names=names))


@pytest.mark.parametrize("name", ["train", "test", "Val"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    splits = load(classes(tmp_path, names=("bus", "car", name)))
    assert set(splits.info.class_names) == {"bus", "car", name}
    assert len(all_files(splits)) == 30


def test_held_out_folders_beside_class_folders_are_refused(tmp_path: Path) -> None:
    classes(classes(tmp_path) / "test", 4)
    with pytest.raises(UserError, match=r"test holds class folders, but the class folder 'dark' is next to it"):
        load(tmp_path)


def test_held_out_folders_alone_are_not_classes(tmp_path: Path) -> None:
    for name in ("val", "Test"):
        classes(tmp_path / name, 4)
    with pytest.raises(UserError, match="has held-out images only, no training images"):
        load(tmp_path)
    splits = load(tmp_path, val=f"folder:{tmp_path}", test=f"folder:{tmp_path}")
    assert (above(splits.val), above(splits.test)) == ({"val"}, {"Test"})


def test_an_unused_folder_of_the_same_classes_is_named(tmp_path: Path) -> None:
    for name in ("train", "val", "test", "holdout", "notes"):
        classes(tmp_path / name, 4) if name != "notes" else (tmp_path / name).mkdir()
    note = load(tmp_path).notes[0]  # a second note says that its pictures are copies of one another
    assert note.startswith(f"{tmp_path / 'holdout'} holds the same classes, but is not read")


@pytest.mark.parametrize(
    "names",
    [
        ("train2017", "val2017"),
        ("train_1", "test_1"),
        ("my_train", "my_test"),
        ("images_train", "images_test"),
        ("cifar-train", "cifar-test"),
        ("train.v1", "test.v1"),
        ("01_train", "02_valid"),
        ("trn", "tst"),
        ("fold1", "fold2", "fold3"),
        ("A", "B"),
    ],
)
@pytest.mark.parametrize("above", ["", "train"])
def test_splits_with_other_names_do_not_count_as_classes(tmp_path: Path, names: tuple[str, ...], above: str) -> None:
    for name in names:
        classes(tmp_path / above / name, 2)
    with pytest.raises(UserError, match="look like splits, not classes") as error:
        load(tmp_path)
    assert "train, val and test" in str(error.value)


def test_split_folders_one_level_down_do_not_count_as_classes(tmp_path: Path) -> None:
    for name in ("bus", "car"):
        classes(tmp_path / "inner" / name, 2, names=("train", "test"))
    with pytest.raises(UserError, match="bus holds the split folders test and train, so it is not a class"):
        load(tmp_path / "inner")
    for name in ("train", "test"):
        classes(tmp_path / "outer" / "data" / name, 2)
    with pytest.raises(UserError, match="data holds the split folders test and train"):
        load(tmp_path / "outer")
    paint(tmp_path / "outer" / "docs", 2, 60)
    with pytest.raises(UserError, match="data holds the split folders test and train"):
        load(tmp_path / "outer")


@pytest.mark.parametrize(
    "names", [("steam_train", "freight_train"), ("bus", "train"), ("crash test", "bus"), ("A", "B")]
)
def test_classes_that_partly_resemble_splits_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    splits = load(classes(tmp_path, names=names))
    assert set(splits.info.class_names) == set(names)


@pytest.mark.parametrize("inside", [("images",), ("raw", "edited")])
def test_class_folders_may_contain_folders_of_the_same_names(tmp_path: Path, inside: tuple[str, ...]) -> None:
    for name in ("bus", "car"):
        classes(tmp_path / name, 5, names=inside)
        if len(inside) > 1:  # a folder with pictures of its own is a class
            paint(tmp_path / name, 5, 60)
    assert load(tmp_path).info.class_names == ("bus", "car")


def test_unused_folders_with_images_are_named(tmp_path: Path) -> None:
    for place, names in (("train", ("ice", "tgv")), ("bus", ("city", "coach")), ("car", ("mini", "van"))):
        classes(tmp_path / place, names=names)
    notes = load(tmp_path).notes
    assert [note.partition(" holds images, but is not read")[0] for note in notes] == [
        str(tmp_path / "bus"),
        str(tmp_path / "car"),
    ]


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["", "dark", "dark/deeper", "train", "train/dark/deeper"])
@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".hidden", "__MACOSX", "@eaDir"])
def test_hidden_folders_are_skipped_at_every_depth(tmp_path: Path, depth: str, name: str) -> None:
    root = tmp_path / "x"
    classes(root / "train" if depth.startswith("train") else root)
    paint(root / depth / "deeper", 2, 60) if depth.endswith("dark") else None
    before = len(all_files(load(root)))
    source = next(root.rglob("00.png"))
    copies = root / depth / name
    copies.mkdir(parents=True)
    for number in range(5):
        shutil.copy(source, copies / f"{number}-checkpoint.png")
    (root / depth / "._00.png").write_bytes(b"what macOS keeps beside a file")
    assert len(all_files(load(root))) == before


def test_linked_pictures_are_read(tmp_path: Path) -> None:
    root = classes(tmp_path / "x")
    paint(tmp_path / "store" / "a", 6, 60)
    paint(tmp_path / "store" / "deep" / "er", 3, 60)
    paint(tmp_path / "store" / "class", 7, 120)
    (root / "dark" / "more").symlink_to(tmp_path / "store" / "a")
    (root / "dark" / "real").mkdir()
    (root / "dark" / "real" / "deep").symlink_to(tmp_path / "store" / "deep")
    (root / "middle").symlink_to(tmp_path / "store" / "class")
    picture = tmp_path / "store" / "single.png"
    shutil.copy(root / "light" / "00.png", picture)
    (root / "light" / "linked.png").symlink_to(picture)
    splits = load(root)
    assert splits.info.class_names == ("dark", "light", "middle")
    labels = [label for part in (splits.train, splits.val, splits.test) for label in part.labels().tolist()]
    assert [labels.count(label) for label in range(3)] == [10 + 6 + 3, 10 + 1, 7]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["dark", "dark/a", "", "..", "/"])
def test_link_loops_end(tmp_path: Path, target: str) -> None:
    root = classes(tmp_path / "x")
    paint(root / "dark" / "a" / "b", 2, 60)
    (root / "dark" / "a" / "b" / "loop").symlink_to("/" if target == "/" else root / target)
    assert len(all_files(load(root))) == 22


def test_a_picture_with_two_links_counts_once(tmp_path: Path) -> None:
    root = classes(tmp_path / "x")
    (root / "dark" / "again").symlink_to(root / "dark" / "deeper")
    paint(root / "dark" / "deeper", 4, 60)
    (root / "dark" / "twin.png").symlink_to(root / "dark" / "00.png")
    os.link(root / "dark" / "01.png", root / "dark" / "hard.png")
    paths = all_files(load(root))
    assert len(paths) == len({path.stat().st_ino for path in paths}) == 24


def test_one_class_inside_another_is_refused(tmp_path: Path) -> None:
    root = classes(tmp_path / "x")
    (root / "dark" / "inside").symlink_to(root / "light")
    with pytest.raises(UserError, match=r"inside/00\.png and .*light/00\.png are the same picture in two classes"):
        load(root)


@pytest.mark.parametrize("place", ["dark/11.png", "dark/deeper", "middle"])
def test_a_broken_link_is_named(tmp_path: Path, place: str) -> None:
    root = classes(tmp_path / "x")
    (root / place).symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=rf"x/{place} is a broken link"):
        load(root)
    (root / place).unlink()
    (root / place).symlink_to(root / place)
    with pytest.raises(UserError, match=rf"x/{place} is a broken link"):
        load(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = classes(tmp_path / "x")
    (root / "dark" / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match="dark/closed cannot be read: Permission denied"):
        load(root)


def test_folders_may_be_named_like_pictures(tmp_path: Path) -> None:
    root = classes(tmp_path / "x")
    paint(root / "dark" / "scan.png", 3, 60)
    (root / "light" / "notes.txt").write_text("no picture")
    assert len(all_files(load(root))) == 23


def test_comparing_many_files_of_few_sizes_needs_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(np.ndarray):
        gathered = 0

        def __getitem__(self, index: Any) -> Any:
            Counted.gathered += isinstance(index, np.ndarray) and index.dtype != bool
            return super().__getitem__(index)

    sizes = overlap._sizes
    splits = load(classes(tmp_path, 20))
    monkeypatch.setattr(overlap, "_sizes", lambda split: sizes(split).view(Counted))
    assert overlap.copies_note({"train": splits.train, "val": splits.val, "test": splits.test}) is None
    assert Counted.gathered <= 3


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_blank_images_give_a_note(tmp_path: Path, mode: str) -> None:
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        for number in range(6):
            alpha = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
            image = Image.new(mode, (8, 8))
            if mode == "RGBA":
                image.putalpha(Image.fromarray(alpha))
            image.save(tmp_path / name / f"{number}.png")
    assert "12 of 12 sampled images have a single colour" in "; ".join(load(tmp_path).notes)
    assert "alpha channel" in "; ".join(load(tmp_path).notes)
    shutil.rmtree(tmp_path / "dark")
    classes(tmp_path, 10, ("dark",))
    assert "one colour" not in "; ".join(load(tmp_path).notes), "6 of 16 blank images may be intended"

"""The images of each role (training, validation, test), for every way to name data sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autocompress import data
from autocompress.data import DataInfo, DatasetProvider, Source, Split, TensorSplit
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job
from autocompress.opened.job import OpenedJob

PARTS = {"train": 40, "val": 20, "test": 20}
"""Number of images in each split of these data sets."""


class Known(DatasetProvider):
    """``known:NAME:SPLITS``.

    A data set whose images have numbers, which show the split of each image.
    """

    name = "known:NAME:SPLITS"

    def claims(self, spec: str) -> bool:
        return spec.startswith("known:")

    def load(self, spec: str) -> Source:
        _, name, parts = spec.split(":")
        info = DataInfo(2, 1, (2, 2), (0.0,), (1.0,), ("a", "b"))
        splits: dict[str, Split] = {}
        for number, part in enumerate(PARTS):
            if part in parts.split("+") or (parts == "plain" and part == "train"):
                images = torch.zeros(PARTS[part], 1, 2, 2, dtype=torch.uint8)
                images[:, 0, 0, 0] = torch.arange(PARTS[part])
                images[:, 0, 0, 1] = number
                images[:, 0, 1, 0] = ord(name)
                splits[part] = TensorSplit(images, torch.arange(PARTS[part]) % 2, info)
        return Source(splits.get("train"), splits.get("val"), splits.get("test"), info)


def origin(split: Split) -> set[tuple[str, str, int]]:
    """Data set, split and number of each image."""
    assert isinstance(split, TensorSplit)
    pixels = split.images[:, 0].flatten(1)
    names = list(PARTS)
    return {(chr(c), names[b], a) for a, b, c in pixels[:, :3].tolist()}


def places(split: Split) -> set[str]:
    """The data sets and splits of the images of a split, such as ``x.val``."""
    return {f"{name}.{part}" for name, part, _ in origin(split)}


def load(has_weights: bool = False, **words: str | None) -> data.Splits:
    return data.load(DataConfig(**words), [Known()], has_weights=has_weights)


LAYOUTS = ["plain", "train", "train+val", "train+test", "val+test", "train+val+test", "val", "test"]


def wanted(role: str, layout: str) -> str:
    """The split that a role gets from a data set that is named for this role only."""
    parts = layout.split("+")
    other = "test" if role == "val" else "val"
    return role if role in parts else other if other in parts else "train"


@pytest.mark.parametrize(("role", "layout", "train"), list(product(("val", "test"), LAYOUTS, (None, "known:t:plain"))))
def test_a_data_set_named_for_one_role_gives_its_held_out_images(role: str, layout: str, train: str | None) -> None:
    splits = load(train=train, **{role: f"known:x:{layout}"})
    assert places(getattr(splits, role)) == {f"x.{wanted(role, layout)}"}
    if train is None and role == "test":
        assert len(splits.val) == 0
    if train is None and role == "val":  # the other half is for the test
        assert len(splits.val) == len(splits.test) == PARTS[wanted(role, layout)] // 2
        assert not origin(splits.val) & origin(splits.test)
    if train is not None:
        assert places(splits.train) == {"t.train"}
    taken = wanted(role, layout)
    assert any("which has no" in note for note in splits.notes) == (taken not in (role, "train"))


@pytest.mark.parametrize(("layout", "train"), list(product(LAYOUTS, (None, "known:t:plain"))))
def test_a_data_set_named_for_two_roles_is_divided(layout: str, train: str | None) -> None:
    splits = load(train=train, val=f"known:x:{layout}", test=f"known:x:{layout}")
    assert not origin(splits.val) & origin(splits.test)
    parts = layout.split("+")
    if "val" in parts and "test" in parts:
        assert (places(splits.val), places(splits.test)) == ({"x.val"}, {"x.test"})
    else:
        held_out = "val" if "val" in parts else "test" if "test" in parts else "train"
        assert places(splits.val) == places(splits.test) == {f"x.{held_out}"}
        assert len(splits.val) == len(splits.test) == PARTS[held_out] // 2
        assert any("half of the" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("layout", "weights", "val", "test", "sizes"),
    [
        ("plain", False, "train", "train", (32, 4, 4)),
        ("plain", True, "train", "train", (32, 4, 4)),
        ("train+val", False, "val", "train", (36, 20, 4)),
        ("train+val", True, "val", "val", (40, 10, 10)),
        ("train+test", False, "train", "test", (36, 4, 20)),
        ("train+test", True, "test", "test", (40, 10, 10)),
        ("train+val+test", False, "val", "test", (40, 20, 20)),
        ("train+val+test", True, "val", "test", (40, 20, 20)),
    ],
)
def test_missing_splits_are_taken_from_images_that_the_weights_have_not_seen(
    layout: str, weights: bool, val: str, test: str, sizes: Sequence[int]
) -> None:
    splits = load(weights, train=f"known:x:{layout}")
    assert (places(splits.val), places(splits.test)) == ({f"x.{val}"}, {f"x.{test}"})
    assert (len(splits.train), len(splits.val), len(splits.test)) == tuple(sizes)
    assert any("trained elsewhere" in note for note in splits.notes) == (weights and layout != "train+val+test")


@settings(max_examples=150, deadline=None)
@given(
    train=st.sampled_from([None, *(f"known:t:{layout}" for layout in LAYOUTS if "t" in layout)]),
    val=st.sampled_from([None, "train", *(f"known:v:{layout}" for layout in LAYOUTS)]),
    test=st.sampled_from([None, "train", "val", *(f"known:w:{layout}" for layout in LAYOUTS)]),
    weights=st.booleans(),
)
def test_no_image_has_two_roles_and_training_images_judge_only_if_nothing_is_held_out(
    train: str | None, val: str | None, test: str | None, weights: bool
) -> None:
    val = train if val == "train" else val
    test = train if test == "train" else val if test == "val" else test
    if val is None and test is None and train is None:
        return
    if train is not None and "train" not in train and "plain" not in train:
        with pytest.raises(UserError, match="held-out images only, no training images"):
            load(weights, train=train, val=val, test=test)
        return
    splits = load(weights, train=train, val=val, test=test)
    parts = [origin(split) for split in (splits.train, splits.val, splits.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == sum(map(len, (splits.train, splits.val, splits.test)))
    assert (len(splits.train) > 0) == (train is not None)
    for role, word in (("val", val), ("test", test)):
        if word is None or word == train:
            continue
        layout = word.split(":")[2]
        assert {name for name, _, _ in origin(getattr(splits, role))} == {word.split(":")[1]}
        if "val" in layout or "test" in layout:
            assert f"{word.split(':')[1]}.train" not in places(getattr(splits, role))


# --- folders --------------------------------------------------------------------------------------


def paint(folder: Path, count: int, level: int, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed * 1000 + level)
    for number in range(count):
        pixels = np.clip(random.normal(level, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{number:02}.png")


def make(root: Path, *parts: str) -> str:
    """A folder with these split folders, or with class folders.

    The first has 10 images per class, others 4.
    """
    for number, part in enumerate(parts or ("",)):
        for name, level in (("dark", 60), ("light", 190)):
            paint(root / part / name, 4 if number else 10, level, seed=number)
    return f"folder:{root}"


def folders(split: Split) -> set[str]:
    """The folders above the class folders of a split's files."""
    return {split.pictures.files[i].parent.parent.name for i in split.indices.tolist()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parts", "role", "taken"),
    [
        ((), "test", "x"),
        ((), "val", "x"),
        (("train",), "test", "train"),
        (("train", "val"), "test", "val"),
        (("train", "val"), "val", "val"),
        (("train", "test"), "val", "test"),
        (("val", "test"), "val", "val"),
        (("test",), "test", "test"),
        (("train", "val", "test"), "test", "test"),
    ],
)
def test_a_folder_named_for_one_role_gives_its_held_out_folder(
    tmp_path: Path, parts: tuple[str, ...], role: str, taken: str
) -> None:
    splits = data.load(DataConfig(**{role: make(tmp_path / "x", *parts)}))
    assert folders(getattr(splits, role)) == {taken}
    assert len(splits.train) == 0
    assert any("training images by its name" in note for note in splits.notes) == (parts == ("train",))


def test_unneeded_training_images_are_not_read(tmp_path: Path) -> None:
    word = make(tmp_path / "x", "train", "val")
    next((tmp_path / "x" / "train").rglob("*.png")).write_bytes(b"broken")
    assert len(data.load(DataConfig(test=word)).test) == 8
    with pytest.raises(UserError, match="cannot be read"):
        data.load(DataConfig(train=word))


def test_a_folder_without_training_images_is_refused_for_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'folder:.*x' has held-out images only, no training images"):
        data.load(DataConfig(train=make(tmp_path / "x", "val", "test")))


def test_other_spellings_of_a_folder_are_the_same_folder(tmp_path: Path) -> None:
    word = make(tmp_path / "x")
    splits = data.load(DataConfig(train=word, val=word + "/", test=f"folder:{tmp_path}/./x"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [16, 2, 2]
    halves = data.load(DataConfig(val=word, test=word + "/"))
    assert [len(part) for part in (halves.train, halves.val, halves.test)] == [0, 10, 10]


def test_held_out_images_that_are_the_training_images_are_refused(tmp_path: Path) -> None:
    word = make(tmp_path / "x", "train", "val")
    with pytest.raises(UserError, match=r"x/train', named for 'test', holds the training images of"):
        data.load(DataConfig(train=word, test=f"{word}/train"))
    with pytest.raises(UserError, match="hold the same images"):
        data.load(DataConfig(val=f"{word}/val", test=word))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    ("parts", "role", "part"),
    [
        (("train", "test"), "val", "test"),
        (("train", "test"), "test", "test"),
        (("train", "val"), "test", "val"),
        (("train", "val"), "val", "val"),
        (("train", "val", "test"), "val", "test"),
        (("train", "val", "test"), "test", "val"),
        (("train", "val", "test"), "val", "val"),
    ],
)
def test_a_split_folder_named_for_one_role_is_not_given_to_the_other(
    tmp_path: Path, parts: tuple[str, ...], role: str, part: str, weights: bool
) -> None:
    word = make(tmp_path / "x", *parts)
    splits = data.load(DataConfig(train=word, **{role: f"{word}/{part}"}), has_weights=weights)
    used = [{s.pictures.files[i] for i in s.indices.tolist()} for s in (splits.train, splits.val, splits.test)]  # type: ignore[attr-defined]
    assert all(used)
    assert sum(map(len, used)) == len(set().union(*used))
    assert folders(getattr(splits, role)) == {part}
    assert any("so '" in note and "gets others" in note for note in splits.notes) == (role != part)


@pytest.mark.parametrize("kind", ["folder", "classes", "symbolic", "hard"])
@pytest.mark.parametrize("roles", [("train", "test"), ("train", "val"), ("val", "test")])
def test_links_do_not_give_an_image_two_roles(tmp_path: Path, kind: str, roles: tuple[str, str]) -> None:
    first, second = roles
    parts = ("train",) if first == "train" else ("train", first)
    word = make(tmp_path / "x", *parts)
    source, target = tmp_path / "x" / first, tmp_path / "x" / second
    link(source, target, kind)
    with pytest.raises(UserError, match=rf"'{first}' and '{second}' share \d+ images: .*\.png are one file"):
        data.load(DataConfig(train=word))
    apart = {"train": f"{word}/train", first: f"{word}/{first}", second: f"{word}/{second}"}
    if kind in ("folder", "classes"):  # both words are one data set, which is divided
        splits = data.load(DataConfig(**apart))
        used = [
            {s.pictures.files[i].resolve() for i in s.indices.tolist()}  # type: ignore[attr-defined]
            for s in (splits.train, splits.val, splits.test)
        ]
        assert sum(map(len, used)) == len(set().union(*used))
        return
    with pytest.raises(UserError, match="are one file"):
        data.load(DataConfig(**apart))


def link(source: Path, target: Path, kind: str) -> None:
    if kind == "folder":
        target.symlink_to(source)
        return
    for name in ("dark", "light"):
        (target if kind == "classes" else target / name).mkdir(parents=True, exist_ok=True)
        if kind == "classes":
            (target / name).symlink_to(source / name)
            continue
        for number, file in enumerate(sorted((source / name).glob("*.png"))[:3]):
            alias = target / name / f"alias{number}.png"
            alias.symlink_to(file) if kind == "symbolic" else os.link(file, alias)


def test_links_to_some_training_images_of_another_folder_are_refused(tmp_path: Path) -> None:
    word = make(tmp_path / "flat")
    link(tmp_path / "flat", tmp_path / "few", "symbolic")
    with pytest.raises(UserError, match=r"'train' and 'test' share 6 images: .*flat.*\.png and .*few.*alias0\.png"):
        data.load(DataConfig(train=word, test=f"folder:{tmp_path}/few"))
    torchs = f"torch/image_folder@{tmp_path}/few"
    with pytest.raises(UserError, match="'train' and 'test' share 6 images"):
        data.load(DataConfig(train=word, test=torchs))


# --- a job ----------------------------------------------------------------------------------------


def test_a_job_with_a_checkpoint_is_tested_on_images_that_the_weights_have_not_seen(tmp_path: Path) -> None:
    word = make(tmp_path / "x", "train", "val")
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=2).state_dict(), file)
    opened = OpenedJob.open(
        load_job(model="test_resnet", checkpoint=file, data=word, input_size=32, methods=["quantize"])
    )
    assert folders(opened.splits.train) == {"train"}
    assert folders(opened.splits.val) == folders(opened.splits.test) == {"val"}
    note = opened.splits.notes[0]  # other notes are about the baseline, whose weights are random here
    assert note.startswith("'test' is half of the 8 validation images: the model's weights were trained elsewhere")


def test_a_trained_baseline_keeps_all_validation_images(tmp_path: Path) -> None:
    word = make(tmp_path / "x", "train", "val")
    job = load_job(model="test_resnet", data=word, input_size=32, methods=["quantize"], **{"baseline.epochs": 0})
    splits = OpenedJob.open(job).splits
    assert (folders(splits.val), folders(splits.test), len(splits.val)) == ({"val"}, {"train"}, 8)
    assert splits.notes == ()


@pytest.mark.parametrize("role", ["val", "test"])
def test_copies_of_training_images_are_named(tmp_path: Path, role: str) -> None:
    """A copy has another inode, so it is recognised by its content."""
    for part, seed in (("train", 0), ("val", 1), ("test", 2)):
        for place, name in enumerate(("cats", "dogs")):
            paint(tmp_path / part / name, 6, 40 + 100 * place, seed)
    word = f"folder:{tmp_path}"
    config = DataConfig.model_validate({"train": word})
    assert not any("copied" in note for note in data.load(config).notes)
    source, target = sorted((tmp_path / "train" / "cats").iterdir())[0], tmp_path / role / "cats" / "zz.png"
    shutil.copy(source, target)
    [note] = [note for note in data.load(config).notes if "copied" in note]
    assert f"1 of '{role}', such as {target}, which equals {source}" in note
    assert not any("copied" in note for note in data.load(config, preview=True).notes), "a dry run reads few images"

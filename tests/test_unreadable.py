"""Unreadable pictures: they are named and counted, and left out if the job allows a share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress import data
from autocompress.data import decoding, listing, unreadable
from autocompress.data.listing import Listing
from autocompress.data.pictures import DatasetSplit
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """100 pictures in two classes; three of them are broken."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for number in range(50):
            noise = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "x" / name / f"{number:02}.png")
    for name in ("a/00.png", "a/30.png", "b/07.png"):
        (tmp_path / "x" / name).write_bytes((tmp_path / "x" / name).read_bytes()[:60])
    return tmp_path / "x"


def load(folder: Path, **options: object) -> data.Splits:
    return data.load(DataConfig.model_validate({"train": f"folder:{folder}", **options}))


def names(splits: data.Splits) -> set[str]:
    found: set[str] = set()
    for split in (splits.train, splits.val, splits.test):
        assert isinstance(split, DatasetSplit)
        files = split.pictures.files  # type: ignore[attr-defined]
        found |= {str(files[i].relative_to(files[i].parents[1])) for i in split.indices.tolist()}
    return found


def test_by_default_the_first_one_ends_the_job(folder: Path) -> None:
    with pytest.raises(UserError, match=r"\.png cannot be read.*skip_unreadable"):
        load(folder)


def test_a_share_is_left_out_named_and_counted(folder: Path) -> None:
    splits = load(folder, skip_unreadable=0.2)
    told = "; ".join(splits.notes)
    left_out = {"a/00.png", "a/30.png", "b/07.png"}
    assert len(names(splits)) == 97
    assert not names(splits) & left_out
    assert all(name in told for name in left_out)
    assert sum(int(count) for count in re.findall(r"(\d+) of \d+ \w+ pictures cannot be read", told)) == 3
    assert sum(len(images) for images, _ in splits.train.loader(16)) == len(splits.train)


def test_more_than_the_allowed_share_is_an_error_with_the_count(folder: Path) -> None:
    for _ in range(2):  # the second time, stored results are used
        with pytest.raises(UserError, match=r"\d of 80 training pictures cannot be read, and .* share of 0\.001"):
            load(folder, skip_unreadable=0.001)


def test_results_are_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder, skip_unreadable=0.2)

    def refuse(*_: object) -> None:
        raise AssertionError("a picture was checked again")

    monkeypatch.setattr(Listing, "check", refuse)
    assert load(folder, skip_unreadable=0.2).digest == first.digest


@pytest.mark.parametrize("fault", [OSError(116, "Stale file handle"), MemoryError("no memory")])
def test_a_passing_fault_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    real = decoding.check_picture

    def check(file: Path, name: str, exif: bool = False) -> None:
        if name.endswith("a/10.png"):
            with decoding.faults_of(name):
                raise fault
        real(file, name, exif)

    with monkeypatch.context() as context:
        context.setattr(listing, "check_picture", check)
        assert "a/10.png" not in names(load(folder, skip_unreadable=0.2))
    assert "a/10.png" in names(load(folder, skip_unreadable=0.2))


def test_only_used_pictures_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    monkeypatch.setattr(Listing, "check", lambda _, index: checked.append(index))
    splits = load(folder, train_images=10, skip_unreadable=0.1)
    parts = (splits.train, splits.val, splits.test)
    assert sorted(checked) == sorted(i for part in parts for i in part.indices.tolist())  # type: ignore[attr-defined]
    assert len(splits.train) == 10


def test_checking_many_pictures_gives_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unreadable, "MANY", 80)
    with caplog.at_level("INFO", "autocompress"):
        load(folder, skip_unreadable=0.2)
    assert "checking once that the 80 pictures of" in caplog.text


@pytest.mark.parametrize("share", [-0.1, 0.6, "few"])
def test_invalid_shares_are_refused(share: object) -> None:
    with pytest.raises(UserError, match="skip_unreadable"):
        load_job(settings={"model": "resnet10t", "data": {"train": "digits", "skip_unreadable": share}})


def test_a_picture_that_disappears_is_named(folder: Path) -> None:
    split = load(folder, skip_unreadable=0.2).train
    gone = split.pictures.files[int(split.indices[5])]  # type: ignore[attr-defined]
    gone.unlink()
    with pytest.raises(UserError, match=rf"{gone.name} cannot be read: .*No such file"):
        list(split.loader(8))


def test_fewer_pictures_than_a_batch_are_one_batch(folder: Path) -> None:
    split = load(folder, skip_unreadable=0.2).train.take(torch.arange(5))
    assert [len(images) for images, _ in split.loader(64)] == [5]
    assert list(split.loader(64, drop_last=True)) == []

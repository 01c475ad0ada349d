"""Options of ``data``: the number of images, and the root of relative paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from autocompress import data
from autocompress.contract import manager
from autocompress.errors import UserError
from autocompress.job import DataConfig, anchored, load_job


def pictures(folder: Path, count: int = 12, classes: str = "ab") -> Path:
    """A folder of class folders with ``count`` small pictures each."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (20 * number, 90 * label, 60)).save(folder / name / f"{number}.png")
    return folder


def test_a_part_of_the_training_images_is_stratified_and_always_the_same() -> None:
    whole = data.load(DataConfig.model_validate("digits"))
    given = {"train": "digits", "val": "digits", "test": "digits", "train_images": 100}
    part, again = (data.load(DataConfig.model_validate(given)) for _ in range(2))
    assert len(part.train) == 100
    assert set(torch.bincount(part.train.labels()).tolist()) <= {9, 10, 11}
    assert part.train.digest == again.train.digest != whole.train.digest
    assert (part.val.digest, part.test.digest) == (whole.val.digest, whole.test.digest)


def test_flags_and_files_have_the_same_meaning(tmp_path: Path) -> None:
    job = load_job(settings={"model": "resnet10t", "data": "digits", "train_images": 90, "val_images": 40}, flags=True)
    assert (job.data.train_images, job.data.val_images) == (90, 40)
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml").data == job.data


def test_without_training_images_there_is_none_to_draw() -> None:
    given = {"test": "digits", "train_images": 5}
    with pytest.raises(UserError, match=r"train_images.*needs training images"):
        load_job(settings={"model": "resnet10t", "pretrained": True, "data": given})


def test_relative_paths_begin_at_the_root(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    job = load_job(model="resnet10t", data={"train": "folder:photos", "root": str(tmp_path)})
    assert len(data.load(job.data).train) == 20, "a tenth is held out for each"
    kept = anchored(job, manager()).data
    assert (kept.train, kept.root) == (f"folder:{tmp_path / 'photos'}", None)


def test_the_root_is_the_folder_for_data_sets_of_timm() -> None:
    named = next(one for one in manager().datasets() if one.claims("torch/cifar10"))
    assert named.rooted("torch/cifar10", Path("/data")) == "torch/cifar10@/data"
    assert named.rooted("torch/cifar10@cifar", Path("/data")) == "torch/cifar10@/data/cifar"
    assert named.rooted("torch/cifar10@/else", Path("/data")) == "torch/cifar10@/else"
    assert named.rooted("wds/x@https://host/x.tar", Path("/data")) == "wds/x@https://host/x.tar"
    assert named.rooted("torch/cifar10", None) == "torch/cifar10"

"""``augment``: training images are augmented with timm's transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from autocompress import data
from autocompress.data.randomness import random_kept, seeded
from autocompress.errors import UserError
from autocompress.job import AugmentConfig, DataConfig, load_job
from autocompress.training import TrainSettings
from autocompress.training.loop import Training
from autocompress.training.mixing import Mixing

POLICIES = ["rand-m9-mstd0.5", "augmix-m3-w3", "original", "3a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, draw = tmp_path_factory.mktemp("x"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(10):
            Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


def loaded(word: str, **asked: object) -> data.Splits:
    return data.load(DataConfig(train=word), augment=AugmentConfig.model_validate(asked) if asked else None)


@pytest.mark.parametrize("policy", POLICIES)
def test_pictures_are_those_of_timms_transform(folder: Path, policy: str) -> None:
    split = loaded(f"folder:{folder}", auto=policy, re_prob=0.5, scale=0.3).train
    images, _ = next(iter(split.loader(4, seed=3, augment=True)))
    info = split.info
    theirs = create_transform(
        info.input_size, is_training=True, mean=info.mean, std=info.std, interpolation="bilinear", scale=(0.3, 1.0),
        auto_augment=policy, re_prob=0.5, re_mode="pixel", color_jitter=0.2,
    )  # fmt: skip
    with random_kept():
        for position, image in enumerate(images):
            picture = split.pictures.picture(int(split.indices[position]))  # type: ignore[attr-defined]
            seeded(3 * 1_000_003 + position)
            assert torch.equal(image, theirs(picture))


@pytest.mark.parametrize("word", ["digits", "folder"])
def test_only_training_images_change_and_so_does_their_digest(folder: Path, word: str) -> None:
    word = f"folder:{folder}" if word == "folder" else word
    plain, asked = loaded(word), loaded(word, auto="rand-m9-mstd0.5")
    assert plain.train.digest != asked.train.digest
    assert plain.val.digest == asked.val.digest
    first, again = (next(iter(asked.train.loader(8, seed=1, augment=True)))[0] for _ in range(2))
    other, same = next(iter(plain.train.loader(8, seed=1, augment=True)))[0], next(iter(asked.train.loader(8)))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(same, next(iter(plain.train.loader(8)))[0])


def test_it_is_kept_when_images_are_prepared_again() -> None:
    splits = loaded("digits", mixup=0.2)
    assert splits.prepared(splits.val.info).train.info.augment == AugmentConfig(mixup=0.2)
    assert splits.prepared(splits.val.info).val.info.augment is None


def test_mixed_labels_are_shares_of_both_images() -> None:
    images = torch.eye(5).view(5, 1, 1, 5)  # the value of an image is its number
    mixed, shares = Mixing(1.0, 0.0, 5, seed=0)(images, torch.arange(5), step=3)
    assert torch.allclose(mixed.view(5, 5), shares, atol=1e-6)
    assert shares[4].tolist() == [0, 0, 0, 0, 1], "the last image of an odd number is not mixed"
    assert 0 < float(shares[0, 0]) < 1
    again, _ = Mixing(1.0, 0.0, 5, seed=0)(images, torch.arange(5), step=3)
    other, _ = Mixing(1.0, 0.0, 5, seed=0)(images, torch.arange(5), step=4)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_a_training_mixes_its_images() -> None:
    losses = {}
    for asked in ({}, {"mixup": 0.8}, {"cutmix": 1.0}):
        split = loaded("digits", hflip=0.0, scale=1.0, color_jitter=0.0, **asked).train.take(torch.arange(64))
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
        losses[str(asked)] = Training(model, split, TrainSettings(batch_size=32)).run().loss
    assert len(set(losses.values())) == 3


def test_the_dump_of_a_job_has_its_augmentation(tmp_path: Path) -> None:
    given = {"auto": "rand-m9-mstd0.5", "mixup": 0.2, "re_prob": 0.25}
    job = load_job(model="test_resnet", data="digits", augment=given)
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml").augment == job.augment == AugmentConfig.model_validate(given)


@pytest.mark.parametrize(
    ("given", "told"), [({"auto": "much"}, "timm has no augmentation 'much'"), ({"auto": "rand-x9"}, "no augment")]
)
def test_unknown_policies_are_refused(folder: Path, given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        loaded(f"folder:{folder}", **given)


@pytest.mark.parametrize("given", [{"mixup": -1}, {"re_prob": 2}, {"jitter": 1}, {"scale": 0}])
def test_wrong_values_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"augment\."):
        load_job(model="test_resnet", data="digits", augment=given)

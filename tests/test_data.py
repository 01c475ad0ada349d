"""Data sets: matching splits, repeatable batches, and errors that say what to correct."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress import data
from autocompress.data import DataInfo, TensorSplit
from autocompress.data.pictures import DatasetSplit
from autocompress.data.processes import Readers
from autocompress.errors import UserError
from autocompress.files import cache_folder
from autocompress.job import DataConfig


@pytest.fixture(scope="module")
def digits() -> data.Splits:
    return data.load(DataConfig(train="digits"))


def paint(folder: Path, count: int, level: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    """Noise around a grey level."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(level)
    for number in range(count):
        pixels = np.clip(random.normal(level, 20, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:02}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paint(tmp_path / "pictures" / "dark", 20, 60)
    paint(tmp_path / "pictures" / "light", 30, 190)
    return tmp_path / "pictures"


def batches(loader: data.Loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_digits_have_the_sizes_that_are_documented(digits: data.Splits) -> None:
    assert [len(part) for part in (digits.train, digits.val, digits.test)] == [1077, 360, 360]
    assert digits.info.input_size == (1, 32, 32)
    for part in (digits.train, digits.val, digits.test):
        share = torch.bincount(part.labels(), minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01
    assert "1,077" in digits.describe()
    assert "0.28 points" in digits.describe()


def test_digits_splits_share_no_image(digits: data.Splits) -> None:
    seen = [{image.numpy().tobytes() for image in part.images} for part in (digits.train, digits.val, digits.test)]  # type: ignore[attr-defined]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_training_batches_are_normalised(digits: data.Splits) -> None:
    images, labels = batches(digits.train.loader(256))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.shape == (1077, 1, 32, 32)
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01
    assert torch.equal(labels, digits.train.labels())


def test_the_seed_decides_order_and_augmentation(digits: data.Splits) -> None:
    small = digits.val.subset(64)
    options = {"shuffle": True, "augment": True}
    first, labels = batches(small.loader(16, seed=3, **options))  # type: ignore[arg-type]
    again, _ = batches(small.loader(16, seed=3, **options))  # type: ignore[arg-type]
    other, other_labels = batches(small.loader(16, seed=4, **options))  # type: ignore[arg-type]
    assert torch.equal(first, again)
    assert not torch.equal(labels, other_labels)
    assert not torch.equal(first, other)
    plain, _ = batches(small.loader(16, shuffle=True, seed=3))
    assert not torch.equal(first, plain)
    assert (first - plain).abs().mean() < 0.8  # augmentation changes the images, but not the characters


def test_drop_last_leaves_full_batches_only(digits: data.Splits) -> None:
    loader = digits.val.loader(100, drop_last=True)
    assert len(loader) == 3
    assert [len(labels) for _, labels in loader] == [100, 100, 100]
    assert len(digits.val.loader(100)) == 4


def test_digest_is_a_content_key(digits: data.Splits) -> None:
    again = data.load(DataConfig(train="digits"))
    assert again.digest == digits.digest
    keys = {
        digits.val.digest,
        digits.test.digest,
        digits.val.subset(50).digest,
        digits.val.relabelled(torch.zeros(360, dtype=torch.int64)).digest,
        data.load(DataConfig(train="digits"), input_size=24).val.digest,
        data.load(DataConfig(train="digits"), mean=[0.1], std=[0.9]).val.digest,
    }
    assert len(keys) == 6


def test_the_settings_of_the_model_override_those_of_the_data() -> None:
    splits = data.load(DataConfig(train="digits"), input_size=(20, 24), channels=3, mean=(0.4, 0.5, 0.6), std=(1, 1, 1))
    images, _ = next(iter(splits.val.loader(8)))
    assert images.shape == (8, 3, 20, 24)
    assert splits.info.input_size == (3, 20, 24)
    assert torch.allclose(images[:, 0] - images[:, 2], torch.tensor(0.2), atol=1e-5)


def test_subset_of_all_is_the_split_itself(digits: data.Splits) -> None:
    assert digits.val.subset(1000) is digits.val
    assert len(digits.val.subset(40)) == 40
    assert torch.bincount(digits.val.subset(40).labels()).tolist() == [4] * 10


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'digit'.*did you mean 'digits'"):
        data.load(DataConfig(train="digit"))


def test_a_path_without_its_prefix_suggests_it(folder: Path) -> None:
    with pytest.raises(UserError, match=f"write folder:{folder}"):
        data.load(DataConfig(train=str(folder)))


def test_no_data_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="names no data"):
        data.load(DataConfig())


def test_without_training_images_held_out_splits_are_loaded() -> None:
    splits = data.load(DataConfig(val="digits", test="digits"))
    assert len(splits.train) == 0
    assert list(splits.train.loader(8)) == []
    assert len(splits.val) == len(splits.test) == 360
    assert splits.val.digest != splits.test.digest


def test_a_folder_of_classes_is_split_in_ten_parts_eight_for_training(folder: Path) -> None:
    splits = data.load(DataConfig(train=f"folder:{folder}"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [40, 5, 5]
    assert splits.info.class_names == ("dark", "light")
    assert splits.info.input_size == (3, 12, 12)
    assert torch.bincount(splits.val.labels()).tolist() == [2, 3]
    again = data.load(DataConfig(train=f"folder:{folder}"))
    assert again.digest == splits.digest
    assert data.load(DataConfig(train=f"folder:{folder}"), seed=1).digest != splits.digest


def test_folder_pictures_become_normalised_batches(folder: Path) -> None:
    splits = data.load(DataConfig(train=f"folder:{folder}"))
    images, labels = batches(splits.train.loader(16))
    assert images.shape == (40, 3, 12, 12)
    assert abs(images.mean()) < 0.3
    assert images[labels == 1].mean() > 0.5 > -0.5 > images[labels == 0].mean()
    random_before = torch.get_rng_state()
    first, _ = batches(splits.train.loader(16, shuffle=True, seed=1, augment=True))
    again, _ = batches(splits.train.loader(16, shuffle=True, seed=1, augment=True))
    assert torch.equal(first, again)
    assert torch.equal(random_before, torch.get_rng_state())


def test_worker_processes_give_equal_batches(folder: Path) -> None:
    train = cast(DatasetSplit, data.load(DataConfig(train=f"folder:{folder}")).train.subset(12))
    alone, _ = batches(train.loader(4, shuffle=True, seed=1, augment=True))
    helped, _ = batches(train.read_by(Readers(1)).loader(4, shuffle=True, seed=1, augment=True))
    assert torch.equal(alone, helped)


def test_split_folders_are_used_and_a_missing_one_is_taken_from_training_images(folder: Path) -> None:
    for name, source in (("train", "dark"), ("train", "light"), ("validation", "dark"), ("validation", "light")):
        target = folder.parent / "parts" / name / source
        target.mkdir(parents=True)
        files = sorted((folder / source).iterdir())
        for file in files[:15] if name == "train" else files[-3:]:
            os.link(file, target / file.name)
    splits = data.load(DataConfig(train=f"folder:{folder.parent / 'parts'}"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [27, 6, 3]


def test_splits_may_be_named_one_by_one(folder: Path) -> None:
    paint(folder.parent / "more" / "dark", 4, 60, size=(30, 30))
    paint(folder.parent / "more" / "light", 4, 190, size=(30, 30))
    splits = data.load(DataConfig(train=f"folder:{folder}", val=f"folder:{folder.parent / 'more'}"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [45, 8, 5]
    assert next(iter(splits.val.loader(8)))[0].shape == (8, 3, 12, 12)
    assert splits.val.info == splits.train.info


def test_one_folder_named_for_validation_and_test_is_divided(folder: Path) -> None:
    paint(folder.parent / "more" / "dark", 4, 60)
    paint(folder.parent / "more" / "light", 6, 190)
    more = f"folder:{folder.parent / 'more'}"
    splits = data.load(DataConfig(train=f"folder:{folder}", val=more, test=more))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [50, 5, 5]
    val, test = (set(part.indices.tolist()) for part in (splits.val, splits.test))  # type: ignore[attr-defined]
    assert not val & test


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    paint(tmp_path / "a", 1, 60)
    paint(tmp_path / "b", 1, 190)
    with pytest.raises(UserError, match=r"^1 image is too few to split"):
        data.load(DataConfig(train=f"folder:{tmp_path}"))


def test_splits_with_different_classes_are_refused(folder: Path) -> None:
    paint(folder.parent / "more" / "dark", 2, 60)
    paint(folder.parent / "more" / "middle", 2, 120)
    with pytest.raises(UserError, match=r"other classes.*without light and with middle"):
        data.load(DataConfig(train=f"folder:{folder}", val=f"folder:{folder.parent / 'more'}"))


def test_grey_pictures_of_many_sizes_take_the_default_size(tmp_path: Path) -> None:
    paint(tmp_path / "a", 5, 60, size=(20, 30), mode="L")
    paint(tmp_path / "b", 6, 190, size=(40, 25), mode="L")
    splits = data.load(DataConfig(train=f"folder:{tmp_path}"), default_size=(16, 16))
    assert splits.info.input_size == (1, 16, 16)
    assert next(iter(splits.train.loader(4)))[0].shape == (4, 1, 16, 16)
    assert data.load(DataConfig(train=f"folder:{tmp_path}"), input_size=10).info.size == (10, 10)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.with_name("gone")), "there is no folder"),
        (lambda root: [p.rename(root.with_name(p.name)) for p in root.iterdir()], "holds no class folders"),
        (lambda root: (root / "dark").rename(root.with_name("dark")), "one class only, 'light'"),
        (lambda root: [file.unlink() for file in (root / "dark").iterdir()], "dark holds no images"),
    ],
    ids=["missing", "no classes", "one class", "empty class"],
)
def test_broken_folders_are_named(folder: Path, spoil: object, message: str) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        data.load(DataConfig(train=f"folder:{folder}"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG no image", None], ids=["empty", "nonsense", "cut off"])
def test_a_corrupt_image_is_named_with_its_path(folder: Path, content: bytes | None) -> None:
    broken = folder / "light" / "07.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    with pytest.raises(UserError, match=r"light/07\.png cannot be read"):
        data.load(DataConfig(train=f"folder:{folder}"))


@pytest.fixture
def three_parts(folder: Path) -> Path:
    """train, val and test folders, 6 images a class, the test images as JPEG."""
    root = folder.parent / "parts"
    for part in ("train", "val", "test"):
        for name, level in (("dark", 60), ("light", 190)):
            paint(root / part / name, 6, level, size=(40, 40))
    for file in list((root / "test").rglob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    return root


@pytest.mark.parametrize("broken", ["train/dark/03.png", "val/light/05.png", "test/dark/04.jpg"])
def test_a_corrupt_image_is_found_when_the_data_is_loaded(three_parts: Path, broken: str) -> None:
    file = three_parts / broken
    file.write_bytes(file.read_bytes()[:-120])
    for _ in range(2):  # the failure is not remembered as a success
        with pytest.raises(UserError, match=f"parts/{broken} cannot be read"):
            data.load(DataConfig(train=f"folder:{three_parts}"))


def test_images_are_decoded_once_only(three_parts: Path) -> None:
    before = data.load(DataConfig(train=f"folder:{three_parts}"))
    file = three_parts / "test" / "light" / "02.jpg"
    facts = file.stat()
    file.write_bytes(bytes(facts.st_size))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert data.load(DataConfig(train=f"folder:{three_parts}")).digest == before.digest
    file.touch()
    with pytest.raises(UserError, match=r"02\.jpg cannot be read"):
        data.load(DataConfig(train=f"folder:{three_parts}"))


def test_a_changed_file_changes_the_digest(folder: Path) -> None:
    before = data.load(DataConfig(train=f"folder:{folder}")).train.digest
    paint(folder / "dark", 1, 61)
    assert data.load(DataConfig(train=f"folder:{folder}")).train.digest != before


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    with gzip.open(path.with_suffix(path.suffix + ".gz"), "wb") as packed:
        packed.write(header + array.astype(np.uint8).tobytes())


def test_names_of_timm_are_loaded_from_a_local_root(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 12)):
        images = random.integers(0, 255, (count, 28, 28))
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    splits = data.load(DataConfig(train=f"torch/mnist@{tmp_path}"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [36, 4, 12]
    assert splits.info.input_size == (1, 28, 28)
    assert splits.info.num_classes == 10
    images, labels = next(iter(splits.test.loader(12)))
    assert images.shape == (12, 1, 28, 28)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_a_name_that_timm_cannot_load_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="timm cannot load 'torch/nothing"):
        data.load(DataConfig(train=f"torch/nothing@{tmp_path}"))


def test_float_images_are_not_rescaled() -> None:
    info = DataInfo(2, 3, (8, 8), (0.5,) * 3, (0.5,) * 3, ("a", "b"))
    images = torch.randn(6, 3, 8, 8)
    split = TensorSplit(images, torch.tensor([0, 1, 0, 1, 0, 1]), info)
    assert torch.equal(batches(split.loader(4))[0], images)
    with pytest.raises(ValueError, match="do not fit"):
        TensorSplit(images, torch.tensor([0, 1]), info)


def test_a_cache_folder_below_a_file_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError) as caught:
        cache_folder()
    assert caught.value.message.startswith(f"the cache folder {tmp_path}/file/cache cannot be written: ")
    assert caught.value.hint == "set AUTOCOMPRESS_CACHE"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_folder_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        cache_folder()

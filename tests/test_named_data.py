"""Data sets with timm's names.

A job only opens the splits that it needs, and errors name the set.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from autocompress import data
from autocompress.data import named
from autocompress.errors import UserError
from autocompress.job import DataConfig


def load(**words: str | bool) -> data.Splits:
    return data.load(DataConfig(**words))


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist(root: Path, name: str = "MNIST") -> Path:
    """40 images to train and 12 to test; returns the folder of the files."""
    random = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 12)):
        write_idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte", random.integers(0, 255, (count, 28, 28)))
        write_idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return root / name / "raw"


def picture(level: int, depth: int = 8) -> Image.Image:
    pixels = np.full((8, 8), level, np.uint8)
    pixels[0, 0] = level + 1
    return Image.fromarray(pixels if depth == 8 else pixels.astype(np.uint16) * 257)


def inaturalist(root: Path, depth: int = 8) -> Path:
    for split, count in (("2021_train", 10), ("2021_valid", 4)):
        for number, name in enumerate(("00000_a_b_c_d_e_f_dark", "00001_a_b_c_d_e_f_light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(60 + 120 * number + index, depth).save(root / split / name / f"{index}.png")
    return root


def imagenet(root: Path, depth: int = 8) -> Path:
    for split, count in (("train", 10), ("val", 4)):
        for number, name in enumerate(("n01", "n02")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(60 + 120 * number + index, depth).save(root / split / name / f"{index}.png")
    torch.save(({"n01": ("dark", "black"), "n02": ("light",)}, []), root / "meta.bin")
    return root


ON_DISK: dict[str, tuple[Callable[..., Path], str]] = {
    "torch/inaturalist": (inaturalist, "2021_valid/00001_a_b_c_d_e_f_light"),
    "torch/imagenet": (imagenet, "val/n02"),
}


# --- which splits are opened ----------------------------------------------------------------------


@pytest.mark.parametrize("role", ["val", "test"])
def test_the_second_split_of_a_data_set_is_held_out(tmp_path: Path, role: str) -> None:
    mnist(tmp_path)
    splits = load(**{role: f"torch/mnist@{tmp_path}"})
    assert len(splits.train) == 0
    assert len(splits.val) + len(splits.test) == 12
    assert any("has no validation images" in note for note in splits.notes) == (role == "val")


def test_unneeded_training_images_are_not_opened(tmp_path: Path) -> None:
    raw = mnist(tmp_path)
    (raw / "train-images-idx3-ubyte").write_bytes(b"broken")
    assert len(load(test=f"torch/mnist@{tmp_path}").test) == 12
    with pytest.raises(UserError, match=r"timm cannot load 'torch/mnist@.*', split 'train'"):
        load(train=f"torch/mnist@{tmp_path}")


def test_a_held_out_split_that_cannot_be_read_is_not_replaced_by_training_images(tmp_path: Path) -> None:
    raw = mnist(tmp_path)
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"timm cannot load 'torch/mnist@.*', split 'validation'"):
        load(train=f"torch/mnist@{tmp_path}")


def test_any_changed_image_changes_the_digest(tmp_path: Path) -> None:
    raw = mnist(tmp_path)
    before = load(train=f"torch/mnist@{tmp_path}").digest
    content = bytearray((raw / "train-images-idx3-ubyte").read_bytes())
    content[-1] ^= 255
    (raw / "train-images-idx3-ubyte").write_bytes(content)
    assert load(train=f"torch/mnist@{tmp_path}").digest != before


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "layout"),
    [
        ("mnist", "MNIST/raw", "MNIST/raw/train-images-idx3-ubyte, "),
        ("MNIST", "MNIST/raw", "MNIST/raw/train-images-idx3-ubyte, "),
        ("fashion_mnist", "FashionMNIST/raw", "FashionMNIST/raw/train-images-idx3-ubyte, "),
        ("kmnist", "KMNIST/raw", "KMNIST/raw/train-images-idx3-ubyte, "),
        ("qmnist", "QMNIST/raw", "QMNIST/raw/qmnist-train-images-idx3-ubyte, "),
        ("cifar10", "cifar-10-batches-py", "cifar-10-batches-py/data_batch_1, "),
        ("cifar100", "cifar-100-python", "cifar-100-python/train, "),
        ("inaturalist", "2021_train", "2021_train, 2021_valid"),
        ("imagenet", "train", "train, val, meta.bin"),
    ],
)
def test_a_folder_with_another_layout_gets_the_expected_layout(
    tmp_path: Path, name: str, first: str, layout: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(train=f"torch/{name}@{tmp_path}")
    assert caught.value.message.endswith(f"there is no {tmp_path / first}")
    assert caught.value.hint.startswith(f"the folder after @ holds {layout}")


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    raw = mnist(tmp_path, "FashionMNIST")
    assert len(load(train=f"torch/fashion_mnist@{tmp_path}").test) == 12
    with pytest.raises(UserError, match=rf"there is no {raw}/FashionMNIST/raw"):
        load(train=f"torch/fashion_mnist@{raw}")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=rf"there is no {raw}/t10k-labels-idx1-ubyte"):
        load(train=f"torch/fashion_mnist@{tmp_path}")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for name in ("torch/cifar10", "torch/image_folder", "wds/x"):
        with pytest.raises(UserError, match=rf"there is no folder {tmp_path}/gone"):
            load(train=f"{name}@{tmp_path}/gone")
    with pytest.raises(UserError, match=r"'wds/x@https://localhost:9/set', split 'train'|needs the package"):
        load(train="wds/x@https://localhost:9/set")  # a URL is no folder
    with pytest.raises(UserError, match="'torch/image_folder' names no folder"):
        load(train="torch/image_folder")


@pytest.mark.parametrize("name", ON_DISK)
def test_a_broken_picture_of_a_named_data_set_is_named(tmp_path: Path, name: str) -> None:
    make, place = ON_DISK[name]
    file = make(tmp_path) / place / "3.png"
    whole = file.read_bytes()
    for content in (b"", b"nonsense", whole[:50]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"the image .*{place}/3\.png cannot be read: "):
            load(train=f"{name}@{tmp_path}")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "x.tif")
    file.write_bytes((tmp_path / "x.tif").read_bytes())
    with pytest.raises(UserError, match=rf"{place}/3\.png cannot be read: its pixels are floating-point numbers"):
        load(train=f"{name}@{tmp_path}")


@pytest.mark.parametrize("name", ON_DISK)
def test_deep_pictures_of_a_named_data_set_are_scaled(tmp_path: Path, name: str) -> None:
    make, _ = ON_DISK[name]
    shallow, deeper = (load(train=f"{name}@{make(tmp_path / str(depth), depth)}") for depth in (8, 16))
    assert shallow.info == deeper.info
    assert shallow.info.channels == 1
    for one, other in zip(shallow.test.loader(8), deeper.test.loader(8), strict=True):
        assert torch.equal(one[0], other[0])


# --- other libraries ------------------------------------------------------------------------------


def hugging_face(root: Path, held_out: str = "validation") -> Path:
    """An image folder as the package 'datasets' reads it."""
    for split, count in (("train", 6), (held_out, 3)):
        for number, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(60 + 120 * number + index).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def hugging_face_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the package 'datasets' is not installed: hfds/ and hfids/ are not read")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("hugging_face_is_here")
@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
def test_splits_of_hugging_face_are_found_by_their_names(tmp_path: Path, prefix: str) -> None:
    root = hugging_face(tmp_path / "set")
    splits = load(train=f"{prefix}/{root}")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [11, 6, 1]
    assert splits.info.channels == 1
    assert len(load(test=f"{prefix}/{root}").test) == 6


@pytest.mark.usefixtures("hugging_face_is_here")
@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_broken_picture_of_hugging_face_is_not_replaced_by_the_next(tmp_path: Path, prefix: str, split: str) -> None:
    root = hugging_face(tmp_path / "set")
    (root / split / "light" / "1.png").write_bytes(b"nonsense")
    number = 7 if split == "train" else 4
    with pytest.raises(UserError, match=rf"the image {number} of '{prefix}/.*', split '{split}' cannot be read: "):
        load(train=f"{prefix}/{root}")


def shards(root: Path, broken: bool = False) -> Path:
    """A folder as the package 'webdataset' reads it."""
    pytest.importorskip("webdataset", reason="the package 'webdataset' is not installed: wds/ is not read")
    root.mkdir()
    splits = {}
    for split, count in (("train", 12), ("test", 4)):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for number in range(count):
                stream = io.BytesIO()
                picture(60 + 120 * (number % 2)).convert("RGB").save(stream, "PNG")
                content = b"nonsense" if broken and split == "test" and number == 2 else stream.getvalue()
                for suffix, part in (("png", content), ("cls", str(number % 2).encode())):
                    entry = tarfile.TarInfo(f"{number}.{suffix}")
                    entry.size = len(part)
                    archive.addfile(entry, io.BytesIO(part))
        splits[split] = {"name": split, "num_samples": count, "filenames": [f"{split}.tar"], "shard_lengths": [count]}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def test_splits_of_webdataset(tmp_path: Path) -> None:
    splits = load(train=f"wds/x@{shards(tmp_path / 'set')}")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [11, 1, 4]
    with pytest.raises(UserError, match=r"the image 2\.png of .*test\.tar cannot be read"):
        load(train=f"wds/x@{shards(tmp_path / 'broken', broken=True)}")


def test_shards_give_the_images_that_timm_reads(tmp_path: Path) -> None:
    root = shards(tmp_path / "set")
    split = load(test=f"wds/x@{root}").test
    theirs = list(timm.data.create_dataset("wds/x", root=str(root), split="test", input_img_mode=""))
    assert split.labels().tolist() == [int(label) for _, label in theirs]
    ours = [split.pictures.picture(index) for index in range(4)]  # type: ignore[attr-defined]
    assert all(np.array_equal(one, other) for one, (other, _) in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("fault", ["cut", "label"])
def test_a_damaged_shard_is_named(tmp_path: Path, fault: str) -> None:
    root = shards(tmp_path / "set")
    file = root / "test.tar"
    content = file.read_bytes()
    file.write_bytes(content[:-11000] if fault == "cut" else content.replace(b"3.cls", b"3.txt", 1))
    told = r"test\.tar cannot be read|1 of .*" if fault == "cut" else r"the picture 3 of .*test\.tar has no label"
    with pytest.raises(UserError, match=told):
        load(train=f"wds/x@{root}")


def test_shards_with_labels_elsewhere_are_streamed(tmp_path: Path) -> None:
    root = shards(tmp_path / "set")
    info = json.loads((root / "_info.json").read_text())
    info["splits"]["test"]["alt_label"] = "kind"
    (root / "_info.json").write_text(json.dumps(info))
    with tarfile.open(root / "test.tar", "w") as archive:
        for number in range(4):
            stream = io.BytesIO()
            picture(60 + 120 * (number % 2)).save(stream, "PNG")
            for suffix, part in (("png", stream.getvalue()), ("json", json.dumps({"kind": number % 2}).encode())):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(part)
                archive.addfile(entry, io.BytesIO(part))
    assert load(test=f"wds/x@{root}").test.labels().tolist() == [0, 1, 0, 1]


@pytest.mark.usefixtures("hugging_face_is_here")
def test_a_stream_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "SHARE_OF_MEMORY", 0.0)
    with pytest.raises(UserError, match="is streamed, and its images need more memory"):
        load(train=f"hfids/{hugging_face(tmp_path / 'set')}")

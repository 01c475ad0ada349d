"""idx:PATH: the files of MNIST and similar data sets, with or without gzip."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress import data
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(values: np.ndarray) -> bytes:
    """``values`` as a file of unsigned bytes."""
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = draw.integers(0, 256, (count, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return tmp_path


def load(folder: Path) -> data.Splits:
    return data.load(DataConfig(train=f"idx:{folder}"))


def test_the_second_pair_of_files_is_the_test_split(folder: Path) -> None:
    splits = load(folder)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [54, 6, 20]
    assert splits.info.input_size == (1, 28, 28)
    images, labels = next(iter(splits.test.loader(20)))
    raw = np.frombuffer((folder / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(20, 1, 28, 28)
    mean, std = splits.info.mean[0], splits.info.std[0]
    assert torch.allclose(images, (torch.tensor(raw).float() / 255 - mean) / std)
    assert labels.tolist() == [number % 10 for number in range(20)]


def test_compressed_files_give_the_same_data(folder: Path) -> None:
    before = load(folder).digest
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load(folder).digest == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t10k-images-idx3-ubyte", None, r"there is no file .*t10k-images-idx3-ubyte, nor .*\.gz"),
        ("train-images-idx3-ubyte", b"nonsense", "is no idx file of 3 dimensions"),
        ("train-labels-idx1-ubyte", idx(np.zeros(7)), "'train' in .* has 60 images and 7 labels"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((20, 30, 30))), "differ in size"),
    ],
)
def test_files_that_do_not_match_are_named(folder: Path, name: str, content: bytes | None, told: str) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        load(folder)
    (folder / name).unlink(missing_ok=True)
    (folder / f"{name}.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"ubyte\.gz cannot be read"):
        load(folder)
    (folder / f"{name}.gz").write_bytes(gzip.compress(b"some bytes")[:10] + b"\xff" * 20)  # zlib.error
    with pytest.raises(UserError, match=r"ubyte\.gz cannot be read"):
        load(folder)
    (folder / f"{name}.gz").write_bytes(gzip.compress(b"some bytes"))
    with pytest.raises(UserError, match=r"ubyte\.gz is no idx file"):
        load(folder)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_shipped_job_reads_the_files_of_debian() -> None:
    job = load_job(Path(__file__).parent.parent / "search_spaces" / "fashion-mnist.yaml")
    splits = data.load(job.data, augment=job.augment, input_size=32)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (54_000, 2_000, 10_000)
    assert splits.whole_val is not None
    assert len(splits.whole_val) == 6_000
    assert next(iter(splits.train.loader(4, augment=True)))[0].shape == (4, 1, 32, 32)

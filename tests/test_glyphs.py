"""glyphs: rendered images, always the same; validation and test have other fonts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress import data
from autocompress.data.glyphs import CLASSES, FONTS, render
from autocompress.job import DataConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def glyphs(cache: Path) -> data.Splits:
    del cache
    return data.load(DataConfig(train="glyphs"))


def test_sizes_and_classes_are_those_documented(glyphs: data.Splits) -> None:
    assert [len(part) for part in (glyphs.train, glyphs.val, glyphs.test)] == [12_000, 2_000, 3_000]
    assert glyphs.info.input_size == (1, 32, 32)
    assert glyphs.info.num_classes == len(set(CLASSES)) == 47
    for part in (glyphs.train, glyphs.val, glyphs.test):
        counts = torch.bincount(part.labels(), minlength=47)
        assert counts.max() - counts.min() <= 1


def test_no_font_is_in_two_splits() -> None:
    names = [name for fonts in FONTS.values() for name in fonts]
    assert len(names) == len(set(names)) == 21


def test_a_seed_gives_the_same_images() -> None:
    first, labels = render(FONTS["val"], 60, seed=5)
    again, _ = render(FONTS["val"], 60, seed=5)
    other, _ = render(FONTS["val"], 60, seed=6)
    assert first.shape == (60, 1, 32, 32)
    assert first.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_font_has_every_character() -> None:
    from autocompress.data.glyphs import _mask

    for font in (name for fonts in FONTS.values() for name in fonts):
        drawn = [np.asarray(_mask(font, character)) for character in CLASSES]
        assert min(image.sum() for image in drawn) > 20 * 255
        assert len({image.tobytes() for image in drawn}) == 47  # a missing character would always be rendered as a box
        assert all(image[0].max() == image[-1].max() == 0 for image in drawn)  # no character exceeds the canvas


def test_images_vary_in_light_and_keep_contrast(glyphs: data.Splits) -> None:
    images = next(iter(glyphs.train.loader(500)))[0]
    assert images.mean((1, 2, 3)).std() > 0.3
    assert images.std((1, 2, 3)).min() > 0.15


def test_the_second_load_reads_the_file(glyphs: data.Splits, cache: Path) -> None:
    (file,) = (cache / "data").iterdir()
    before = file.stat().st_mtime_ns
    assert data.load(DataConfig(train="glyphs")).digest == glyphs.digest
    assert file.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_broken_file_is_made_again(glyphs: data.Splits, cache: Path) -> None:
    (file,) = (cache / "data").iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    assert data.load(DataConfig(train="glyphs")).digest == glyphs.digest

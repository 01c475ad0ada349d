"""Transfer sets of synthetic images: demands, quality, contact sheets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from tiny_teacher import SIZE, digits_teacher, untrained

from autocompress.synthesis import (
    SynthesisBudget,
    balanced_labels,
    contact_sheet,
    data_info,
    quality,
    starting_noise,
    teacher_logits,
    transfer_set,
)
from autocompress.synthesis.sheet import displayable

INFO = data_info(untrained())


def noise(n: int, size: tuple[int, int, int] = SIZE, seed: int = 0) -> torch.Tensor:
    return starting_noise(n, size, torch.Generator().manual_seed(seed))


# --- budget and labels ----------------------------------------------------------------------------


@given(images=st.integers(1, 700), batch=st.integers(1, 300), classes=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_batches_have_equal_sizes_and_labels_are_balanced(images: int, batch: int, classes: int) -> None:
    sizes = SynthesisBudget(images, batch).batches
    assert sum(sizes) == images
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    generator = torch.Generator().manual_seed(0)
    labels = [balanced_labels(size, classes, generator, first=sum(sizes[:number])) for number, size in enumerate(sizes)]
    for some in (*labels, torch.cat(labels)):
        counts = torch.bincount(some, minlength=classes)
        assert some.dtype == torch.int64
        assert int(counts.max() - counts.min()) <= 1


def test_labels_are_shuffled_by_the_generator() -> None:
    first, again, other = (balanced_labels(50, 10, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(50) % 10)


# --- transfer sets --------------------------------------------------------------------------------


def test_a_transfer_set_has_the_outputs_of_the_teacher() -> None:
    teacher, images = untrained(), noise(20)
    logits = teacher_logits(teacher, images, batch_size=7)
    assert torch.allclose(logits, teacher(images), atol=1e-5)
    assert not logits.requires_grad
    made = transfer_set(images, logits, INFO, temperature=4.0, demands=["freeze_batch_norm"], calibration_images=5)
    shown, labels = next(iter(made.train.loader(64)))
    assert torch.equal(shown, images)  # they are normalised already
    assert torch.equal(labels, logits.argmax(1))
    assert made.soft_targets is not None
    assert torch.equal(made.soft_targets, logits)
    assert (made.temperature, made.labelled, made.demands) == (4.0, False, {"freeze_batch_norm"})
    assert len(made.calibration) == 5
    assert made.train.info == INFO
    assert transfer_set(images, logits, INFO, stored=False).soft_targets is None


def test_held_out_images_are_not_trained_on() -> None:
    images = noise(30)
    logits = torch.eye(10).repeat(3, 1)
    made = transfer_set(images, logits, INFO, held_out=10)
    trained, apart = (next(iter(split.loader(64))) for split in (made.train, made.calibration))
    assert len(made.train) == 20
    assert sorted(apart[1].tolist()) == list(range(10))
    assert not any(torch.equal(a, b) for a in trained[0] for b in apart[0])
    assert made.soft_targets is not None
    assert torch.equal(made.soft_targets.argmax(1), trained[1])


def test_the_key_depends_on_images_targets_and_origin() -> None:
    images, logits = noise(12), torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
    key = transfer_set(images, logits, INFO).digest
    assert key == transfer_set(images.clone(), logits.clone(), INFO).digest
    others = [
        transfer_set(noise(12, seed=1), logits, INFO),
        transfer_set(images, logits + 1, INFO),
        transfer_set(images, logits, INFO, temperature=2.0),
        transfer_set(images, logits, INFO, demands=["freeze_batch_norm"]),
        transfer_set(images, logits, INFO, stored=False),
        transfer_set(images, logits, INFO, made_by=["method", "2"]),
        transfer_set(images, logits, replace(INFO, mean=(0.1,)), held_out=0),
    ]
    assert len({key, *(other.digest for other in others)}) == 1 + len(others)


def test_facts_about_the_data_of_a_teacher() -> None:
    info = data_info(untrained((12, 9, 14), classes=3))
    assert (info.channels, info.size, info.num_classes) == (12, (9, 14), 3)
    assert info.class_names == ("class 0", "class 1", "class 2")
    assert info.mean == (0.3,) * 12


# --- quality --------------------------------------------------------------------------------------


def test_real_images_are_better_than_noise() -> None:
    teacher, images, labels = digits_teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    real, made = quality(teacher, images, labels), quality(teacher, noise(256), labels)
    assert real["agreement"] > 95
    assert made["agreement"] < 50
    assert real["feature_distance"] < 0.2 * made["feature_distance"]
    assert real["confidence"] > 0.9
    assert made["diversity"] == pytest.approx(2**0.5, rel=0.02)  # of independent normal pixels
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_equal_images_have_no_diversity() -> None:
    found = quality(untrained(), noise(1).repeat(5, 1, 1, 1))
    assert found["diversity"] == pytest.approx(0, abs=1e-9)
    assert "agreement" not in found
    assert quality(untrained(), noise(1))["diversity"] == 0.0


# --- the sheet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (12, 3)])
def test_a_sheet_of_any_channels(channels: int, shown: int, tmp_path: Path) -> None:
    info = data_info(untrained((channels, 8, 8)))
    images = noise(5, (channels, 8, 8))
    pixels = displayable(images, info)
    assert pixels.shape == (5, shown, 8, 8)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert torch.allclose(pixels[0, 0], (images[0, 0] * 0.35 + 0.3).clamp(0, 1))
    file = contact_sheet(images, info, tmp_path / "sheets" / "some.png", columns=3, labels=torch.arange(5) % 10)
    picture = imread(file)
    assert picture.std() > 0.01
    assert picture.shape[0] < picture.shape[1]  # two rows of three
    assert [path.name for path in file.parent.iterdir()] == ["some.png"]


def test_class_names_are_shown_as_they_are(tmp_path: Path) -> None:
    info = replace(INFO, class_names=("a$b$_{", "$\\frac", *INFO.class_names[2:]))
    assert contact_sheet(noise(2), info, tmp_path / "odd.png", labels=torch.tensor([0, 1])).exists()

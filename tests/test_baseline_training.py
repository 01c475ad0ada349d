"""Training of a baseline: it is stored, continues after a kill, and merges branches at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comparing import same
from torch import nn

from autocompress import data, models
from autocompress.data import Splits, TensorSplit
from autocompress.errors import UserError
from autocompress.job import load_job
from autocompress.training import checkpoint, trainer


@pytest.fixture(scope="module")
def splits() -> Splits:
    return data.load(load_job(model="resnet10t", data="digits", name="test").data)


def test_a_baseline_is_trained_once(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    job = load_job(model="test_resnet", data="digits", name="test", baseline={"epochs": 1})
    small = Splits(splits.train.subset(256), splits.val, splits.test, splits.info)
    steps: list[float] = []

    def make(seed: int = 0) -> nn.Module:
        own = job.model_copy(update={"seed": seed})
        return trainer.train_baseline(own, models.create(own, small.info), small, lambda done, _: steps.append(done))

    first = make()
    assert len(steps) == 2
    assert not first.training
    assert same(first, make())
    assert len(steps) == 2
    make(seed=1)
    assert len(steps) == 4
    kept = sorted((tmp_path / "baselines").iterdir())
    assert len(kept) == 2
    assert {file.suffix for file in kept} == {".safetensors"}
    for file in kept:
        file.write_bytes(b"broken")
    assert same(first, make())
    assert len(steps) == 6


def test_a_killed_baseline_training_continues(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    job = load_job(model="test_resnet", data="digits", name="test", baseline={"epochs": 3, "batch_size": 64})
    small = Splits(splits.train.subset(128), splits.val, splits.test, splits.info)

    def make(pause: Any = None) -> nn.Module:
        return trainer.train_baseline(
            job, models.create(job, small.info), small, lambda *_: steps.append(1), pause=pause
        )

    def die() -> None:
        if len(steps) == 5:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make(die)
    assert list((tmp_path / "checkpoints").iterdir())
    found = make()
    assert len(steps) == 6, "five steps before, one after"
    assert not list((tmp_path / "checkpoints").iterdir())
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "other"))
    assert same(found, make())


def test_a_baseline_needs_images(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    job = load_job(model="test_resnet", data="digits", name="test")
    empty = Splits(TensorSplit.empty(splits.info), splits.val, splits.test, splits.info)
    with pytest.raises(UserError, match="has no weights and there is no data"):
        trainer.train_baseline(job, models.create(job, splits.info), empty)
    # The first job makes it, so that nothing is downloaded.
    others = job.model_copy(update={"pretrained": True})
    with pytest.raises(UserError, match="has weights for other classes than those of the data, and there is no data"):
        trainer.train_baseline(others, models.create(job, splits.info), empty)


def test_branches_are_merged_after_training(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    job = load_job(model="repvgg_a0", data="digits", name="test", baseline={"epochs": 1, "batch_size": 16})
    small = Splits(splits.train.subset(16), splits.val, splits.test, splits.info)
    model = trainer.train_baseline(job, models.create(job, splits.info), small)
    assert models.architecture(model)["reparameterized"]
    again = trainer.train_baseline(job, models.create(job, splits.info), small)
    assert same(model, again)

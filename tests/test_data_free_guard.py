"""Sealed test images.

Nothing can read them until a search is closed, neither methods nor data sources.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_source import Peeks, free_job, open_free

from autocompress.contract import Deployable
from autocompress.data import DataInfo, Sealed, SealedError, Split, TensorSplit, let_go, unsealed
from autocompress.devices.lock import MachineLock
from autocompress.opened.job import OpenedJob
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.settings import Settings
from autocompress.searching.trainable import WorkerState

INFO = DataInfo(2, 1, (4, 4), (0.5,), (0.5,), ("a", "b"))

ACCESSES: dict[str, Callable[[Any], Any]] = {
    "loader": lambda split: split.loader(2),
    "labels": lambda split: split.labels(),
    "digest": lambda split: split.digest,
    "take": lambda split: split.take(torch.arange(2)),
    "subset": lambda split: split.subset(2),
    "all of it": lambda split: split.subset(100),
    "relabelled": lambda split: split.relabelled(torch.zeros(6)),
    "prepared": lambda split: split.prepared(INFO),
    "images": lambda split: split.images,
    "batch": lambda split: split.batch(torch.arange(2)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
}


def sealed() -> Sealed:
    return Sealed(TensorSplit(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1] * 3), INFO))


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_every_way_to_a_sealed_image_is_refused(access: Callable[[Split], Any]) -> None:
    split = sealed()
    with pytest.raises(SealedError, match="sealed"):
        access(split)
    assert split.refused == 1


def test_facts_about_a_sealed_split_may_be_read() -> None:
    split = sealed()
    assert (len(split), split.num_classes, split.input_size) == (6, 2, (1, 4, 4))
    assert (split.refused, split.openings) == (0, 0)


def test_only_the_opened_object_is_open_and_only_inside_the_block() -> None:
    split, other = sealed(), sealed()
    with unsealed(split) as inside:
        assert inside.labels().tolist() == [0, 1] * 3
        assert len(next(iter(split.loader(4)))[0]) == 4
        with pytest.raises(SealedError):
            other.labels()
        with pytest.raises(SealedError):
            split.subset(2)  # a derived split would stay open after the block
    with pytest.raises(SealedError):
        split.labels()
    assert split.openings == 1


def test_it_is_closed_again_after_an_error() -> None:
    split = sealed()
    with pytest.raises(KeyError), unsealed(split):
        raise KeyError
    with pytest.raises(SealedError):
        split.labels()


def test_an_object_that_no_longer_exists_cannot_be_opened() -> None:
    split = sealed()
    let_go(split)
    with pytest.raises(SealedError), unsealed(split):
        split.labels()
    assert len(split) == 6


def test_a_split_that_is_not_sealed_is_returned_unchanged() -> None:
    split = TensorSplit.empty(INFO)
    let_go(split)
    with unsealed(split) as inside:
        assert inside is split


# --- in a job -------------------------------------------------------------------------------------


ATTEMPTS: dict[str, Callable[[OpenedJob], Any]] = {
    "the split": lambda opened: next(iter(opened.splits.test.loader(8))),
    "its labels": lambda opened: opened.splits.test.labels(),
    "scoring": lambda opened: opened.accuracy(
        Deployable(opened.baseline.deployable.file, opened.baseline.deployable.input_size), "test"
    ),
    "all splits": lambda opened: opened.splits.digest,
}


@pytest.mark.parametrize("look", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_trial_cannot_touch_the_test_images(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(Peeks, "look", staticmethod(look))
    opened = open_free(
        free_job(teacher, tmp_path, device="cost-model:bitops", model_args={"in_chans": 1, "img_size": 32})
    )
    assert isinstance(opened, OpenedJob)
    test = opened.splits.test
    assert isinstance(test, Sealed)
    assert test.refused == test.openings == 0, "opening the job read none of them"
    measurer = Measurer.of(opened.job, opened.device)
    trial = Trial(
        opened, measurer, MachineLock(tmp_path / "locks"), 0, tmp_path / "free", baseline_row(opened, measurer)
    )
    row = trial.run({"peeks.on": "yes", "recover.epochs": 0, "bits.weight.model": "none"})
    assert row["status"] == "failed"
    assert "SealedError: the test images are sealed" in row["reason"]
    assert test.refused > 0
    assert test.openings == 0


def test_a_worker_has_no_test_images_at_all(teacher: Path, tmp_path: Path) -> None:
    job = free_job(teacher, tmp_path, device="cost-model:bitops", model_args={"in_chans": 1, "img_size": 32})
    methods = {method.name: method.version for method in open_free(job).methods}
    state = WorkerState.of(
        Settings(job, tmp_path, baseline={}, threads=1, cwd=tmp_path, methods=methods, opener=open_free)
    )
    assert isinstance(state.opened, OpenedJob)
    test = state.opened.splits.test
    assert len(test) == 360
    with pytest.raises(SealedError), unsealed(test):
        test.labels()

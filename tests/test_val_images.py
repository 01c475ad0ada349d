"""``data.val_images``.

A part of the validation images judges trials, and all of them judge the front.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress import data, results
from autocompress.contract import manager
from autocompress.devices.lock import MachineLock
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing, save_trials
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer

WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}


def test_the_part_is_balanced_and_always_the_same() -> None:
    whole = data.load(DataConfig.model_validate("digits"))
    part = data.load(DataConfig(train="digits", val="digits", test="digits", val_images=50))
    assert whole.whole_val is None
    assert part.whole_val is not None
    assert (len(part.val), part.whole_val.digest) == (50, whole.val.digest)
    assert set(torch.bincount(part.val.labels()).tolist()) <= {4, 5, 6}
    again = data.load(DataConfig(train="digits", val="digits", test="digits", val_images=50))
    assert again.val.digest == part.val.digest
    assert "50 of" in part.describe()
    assert (part.train.digest, part.test.digest) == (whole.train.digest, whole.test.digest)


def test_more_than_all_images_are_all_images() -> None:
    found = data.load(DataConfig(train="digits", val="digits", test="digits", val_images=10**6))
    assert found.whole_val is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train": "digits", "val": "digits", "val_images": 0}, "val_images.*at least 1"),
        ({"train": "digits", "val": "digits", "val_images": "many"}, "val_images.*whole number"),
    ],
)
def test_bad_values_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_job(settings={"model": "resnet10t", "data": given})


def test_a_job_without_validation_images_has_none_to_draw() -> None:
    with pytest.raises(UserError, match=r"val_images.*needs validation images"):
        load_job(settings={"model": "resnet10t", "pretrained": True, "data": {"test": "digits", "val_images": 5}})


def test_the_dump_of_a_job_has_it(tmp_path: Path) -> None:
    given = {"train": "digits", "val": "digits", "test": "digits", "val_images": 50}
    job = load_job(settings={"model": "resnet10t", "data": given})
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml").data == job.data


def test_the_front_is_scored_on_all_validation_images(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path, constraints={"accuracy_drop": 1.5})
    opened = open_toy(job)
    opened.splits = replace(opened.splits, whole_val=opened.splits.val)
    measurer, lock = Measurer.of(job, opened.device), MachineLock(tmp_path / "locks")
    baseline = baseline_row(opened, measurer)
    recipe = {**WHOLE, "toy.bits": 8}
    row = Trial(opened, measurer, lock, 0, job.folder, baseline).run(recipe)
    assert (row["accuracy"], row["status"]) == (88.0, "infeasible"), "two points are lost on the part"
    (job.folder / "job.yaml").write_text(job.to_yaml())
    save_trials(job.folder, [row])
    Closing(opened, measurer, job.folder, baseline).close([row], 1.5, "all trials are spent", manager())
    found = results.read(job.folder)
    model = found.models.iloc[0]
    assert found.baseline["accuracy"] == 92.5
    assert (model["accuracy"], model["accuracy_drop"], model["status"]) == (91.0, 1.5, "complete")
    assert found.summary["images"]["val"] == 200
    low, high = json.loads((found.artifact(0) / "metrics.json").read_text())["accuracy_drop_interval"]
    assert low <= 1.5 <= high

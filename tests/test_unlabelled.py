"""Pictures without labels: their use, the images that judge, and unusable folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress import data, models
from autocompress.contract import manager
from autocompress.data import Sealed, TensorSplit
from autocompress.data.digits import Digits
from autocompress.errors import UserError
from autocompress.job import DataConfig, Job, load_job, validate
from autocompress.job.paths import anchored
from autocompress.opened.job import OpenedJob
from autocompress.opened.opening import measured
from autocompress.recipes.choosers import Policy
from autocompress.report import view
from autocompress.report.page import render
from autocompress.searching import run
from autocompress.searching.searchable import SearchableJob
from autocompress.testing import pretended_gpu

COUNT = 100


def write_digits(folder: Path, first: int, count: int, *, by_class: bool = False) -> Path:
    """Digits as picture files. The folders between are classes only if ``by_class``."""
    split = Digits().load("digits").train
    assert isinstance(split, TensorSplit)
    for number in range(first, first + count):
        name = str(int(split.labels()[number])) if by_class else ("some", "others/deeper")[number % 2]
        file = folder / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(split.images[number, 0])).save(file)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("pictures"), 0, COUNT)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("classes"), 200, 80, by_class=True)


def job_of(teacher: Path, results: Path, images: dict[str, str], **settings: Any) -> Job:
    given: dict[str, Any] = {
        "model": "test_resnet",
        "checkpoint": teacher,
        "model_args": {"in_chans": 1, "img_size": 32},
        "data": images,
        "device": "cost-model:bitops",
        "methods": ["obs", "quantize"],
        "granularity": "model",
        "budget": {"trials": 3, "epochs": 1},
        "workers": 1,
        "results": results,
        "name": "unlabelled",
    }
    return load_job(settings=given | settings)


@pytest.fixture(scope="module")
def opened_job(teacher: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedJob:
    return OpenedJob.open(job_of(teacher, tmp_path_factory.mktemp("results"), {"train": f"unlabelled:{pictures}"}))


# --- the job --------------------------------------------------------------------------------------


def test_one_word_names_the_training_images() -> None:
    assert DataConfig.model_validate("unlabelled:some") == DataConfig(train="unlabelled:some")
    assert DataConfig(train="unlabelled:some").is_unlabelled
    assert not DataConfig(train="folder:some").is_unlabelled
    assert not DataConfig().is_unlabelled


@pytest.mark.parametrize("role", ["val", "test"])
def test_pictures_without_labels_cannot_be_validation_or_test_images(role: str) -> None:
    images = {"train": "unlabelled:some", role: "unlabelled:others"}
    with pytest.raises(UserError, match=rf"'data.{role}' cannot be 'unlabelled:others'.*name them for 'train'"):
        load_job(settings={"model": "test_resnet", "pretrained": True, "data": images})


def test_without_weights_the_job_is_refused() -> None:
    with pytest.raises(UserError, match=r"no labelled images to train the baseline on.*set 'pretrained'"):
        load_job(settings={"model": "test_resnet", "data": "unlabelled:some"})


def test_a_number_of_validation_images_needs_validation_images(tmp_path: Path) -> None:
    images = {"train": "unlabelled:some", "val_images": 10}
    with pytest.raises(UserError, match=r"needs validation images"):
        load_job(settings={"model": "test_resnet", "pretrained": True, "data": images})


def test_the_folder_of_a_job_does_not_depend_on_where_the_job_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(settings={"model": "resnet18", "pretrained": True, "data": {"train": "unlabelled:some"}})
    validate(job, manager())
    assert anchored(job, manager()).data.train == f"unlabelled:{tmp_path / 'some'}"
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml") == job


# --- the folder -----------------------------------------------------------------------------------


def opened(folder: Path, **more: str) -> data.Splits:
    return data.load(DataConfig.model_validate({"train": f"unlabelled:{folder}", **more}))


def test_a_fixed_fifth_is_held_out(pictures: Path, tmp_path: Path) -> None:
    splits = opened(pictures)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [COUNT * 4 // 5, COUNT // 5, 0]
    assert splits.unlabelled
    assert splits.by_agreement
    other_seed = data.load(DataConfig(train=f"unlabelled:{pictures}"), seed=3)
    assert other_seed.val.digest == splits.val.digest

    def names(split: Any) -> set[str]:
        return {split.pictures.files[index].name for index in split.indices.tolist()}

    assert not names(splits.train) & names(splits.val)
    more = write_digits(tmp_path, 0, COUNT + 20)
    grown = opened(more)
    moved = names(splits.train) & names(grown.val)
    assert len(moved) <= 5, "added pictures change the split of few others"


def test_labelled_validation_images_judge_if_they_are_named(pictures: Path, classes: Path) -> None:
    splits = opened(pictures, val=f"folder:{classes}")
    assert splits.unlabelled
    assert not splits.by_agreement
    assert splits.info.num_classes == 10
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [COUNT * 4 // 5, 40, 40]
    tested = opened(pictures, test=f"folder:{classes}")
    assert tested.by_agreement
    assert [len(part) for part in (tested.train, tested.val, tested.test)] == [COUNT * 4 // 5, COUNT // 5, 80]


def test_pictures_that_train_do_not_judge(classes: Path) -> None:
    with pytest.raises(UserError, match=r"holds the training images|share"):
        opened(classes, val=f"folder:{classes}")


def test_unusable_folders_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*missing.*unlabelled:PATH"):
        opened(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"empty holds no pictures.*\.png"):
        opened(tmp_path / "empty")
    with pytest.raises(UserError, match=r"holds only 12 pictures.*at least 40"):
        opened(write_digits(tmp_path / "few", 0, 12))
    broken = write_digits(tmp_path / "broken", 0, 50)
    (broken / "some" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(UserError, match=r"0\.png cannot be read"):
        opened(broken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission_is_refused(pictures: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(UserError, match="cannot be read"):
        opened(tmp_path)


def test_a_classifier_for_other_classes_cannot_be_trained(pictures: Path, classes: Path, tmp_path: Path) -> None:
    images = {"train": f"unlabelled:{pictures}", "val": f"folder:{classes}"}
    job = load_job(settings={"model": "resnet18", "pretrained": True, "data": images, "results": tmp_path})
    splits = data.load(job.data, manager().datasets(), **models.preprocessing(job))
    from autocompress.training import require_training_images

    with pytest.raises(UserError, match=r"has weights for other classes .* its pictures have no labels"):
        require_training_images(job, splits)


# --- the opened job -------------------------------------------------------------------------------


def test_on_a_gpu_the_front_is_judged_by_the_same_labels(opened_job: OpenedJob) -> None:
    job, model, store, answered = opened_job.job, opened_job.model, opened_job.pipeline.store, opened_job.splits
    before = answered.val.relabelled(torch.zeros(len(answered.val), dtype=torch.int64))
    with pretended_gpu() as gpu:
        splits, _ = measured(job, model, replace(answered, val=before), None, store, gpu.compute, lambda: None)
    assert splits.whole_val is splits.val
    assert torch.equal(splits.val.labels(), answered.val.labels())


def test_candidates_are_judged_by_predictions_of_the_baseline(opened_job: OpenedJob) -> None:
    splits = opened_job.splits
    assert splits.by_agreement
    assert opened_job.baseline.accuracy == 100.0
    with torch.no_grad():
        answers = torch.cat([opened_job.model(images).argmax(1) for images, _ in splits.val.loader(64)])
    assert torch.equal(answers, splits.val.labels())
    assert splits.info.num_classes == 10
    assert splits.info.channels == 1
    assert "80 images without labels to train" in splits.describe()
    assert "20 further images to compare with the predictions of the baseline" in splits.describe()


def test_training_and_calibration_use_no_labels(opened_job: OpenedJob) -> None:
    transfer = opened_job.pipeline.transfer
    assert transfer is not None
    assert not transfer.labelled
    assert len(transfer.train) == COUNT * 4 // 5
    assert len(transfer.calibration)
    assert "recover.distill" not in opened_job.parameters(), "all training is distillation"
    assert "source" not in opened_job.parameters()


def test_a_recipe_prunes_repairs_trains_and_quantizes(opened_job: OpenedJob) -> None:
    rules = {"prune": "default", "recover": "default", "bits": "default", "quantize": "default"}
    recipe = opened_job.compose(Policy(rules))
    assert recipe.recover["distill"] == 1.0
    candidate = opened_job.candidate(recipe)
    steps = {step.get("stage"): step["plan"] for step in candidate.plan["transforms"]}
    assert set(steps) == {"prune", "repair"}
    assert steps["repair"]["fit"] in ("one-shot", "sequential")
    assert candidate.plan["quantization"]


def test_a_dry_run_reads_few_pictures(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    images = {"train": f"unlabelled:{pictures}"}
    opened_job = OpenedJob.dry(job_of(teacher, tmp_path, images))
    assert "80 images without labels to train" in opened_job.splits.describe()
    candidate = opened_job.candidate(opened_job.compose(Policy({"prune": "default"})), dry_run=True)
    assert candidate.macs < opened_job.baseline.macs


def test_labels_judge_if_a_job_has_them(teacher: Path, pictures: Path, classes: Path, tmp_path: Path) -> None:
    images = {"train": f"unlabelled:{pictures}", "val": f"folder:{classes}"}
    opened_job = OpenedJob.open(job_of(teacher, tmp_path, images))
    assert 10 < opened_job.baseline.accuracy < 100
    assert not isinstance(opened_job.splits.test, Sealed)
    assert not opened_job.pipeline.transfer.labelled  # type: ignore[union-attr]


def test_test_images_are_sealed_if_no_labels_judge(
    teacher: Path, pictures: Path, classes: Path, tmp_path: Path
) -> None:
    images = {"train": f"unlabelled:{pictures}", "test": f"folder:{classes}"}
    opened_job: SearchableJob = OpenedJob.dry(job_of(teacher, tmp_path, images))
    assert isinstance(opened_job.splits.test, Sealed)


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_a_whole_search(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    job = job_of(teacher, tmp_path, {"train": f"unlabelled:{pictures}"}, space={"recover.epochs": {"high": 1}})
    found = run.search(job)
    assert set(found.trials["status"]) == {"complete"}, found.trials["reason"].tolist()
    assert (found.trials["agreement"] == found.trials["accuracy"]).all()
    assert found.summary["synthetic"] == {}
    told = found.summary["unlabelled"]
    assert (told["train"], told["classes"]) == (80, 10)
    assert told["held_out"] <= 20
    page = render(found)
    assert "calibrated and trained on 80 pictures without labels" in page
    assert "synthetic" not in page
    assert "which is agreement and not accuracy" in view.headline(found)

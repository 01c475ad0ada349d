"""Resume after SIGKILL.

Finished trials are kept, only interrupted ones run again, and the budget is kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
import pytest
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from PIL import Image
from test_search_run import start_toy_search, wait_for
from toy_search import OpenedToy, offer_toy_device, open_toy, toy_job

from autocompress import data, results
from autocompress.contract import manager
from autocompress.data.guard import Sealed
from autocompress.devices import OnnxRuntimeCpu
from autocompress.devices.machine import machine
from autocompress.errors import UserError
from autocompress.job import DataConfig, Job
from autocompress.opened import keys
from autocompress.searching import run, rundir
from autocompress.searching.begun import begun_with, check_resumable, images_of
from autocompress.searching.storing.names import STUDY_FILE
from autocompress.searching.study import Study

MORE = 5
"""Trials after the death of the driver."""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_search_is_resumed(tmp_path: Path) -> None:
    offer_toy_device()
    process = start_toy_search(tmp_path, 1000, seconds=0.3, workers=1)  # it does not end before it is killed
    trials, runs_file = tmp_path / "toy" / "trials.csv", tmp_path / "toy" / "toy" / "runs.txt"
    wait_for(lambda: len(trials.read_text().splitlines()) >= 5, trials)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = results.read(tmp_path / "toy").trials
    ran_before = len(runs_file.read_text().splitlines())
    assert len(before) >= 4
    # The study may have more trials than trials.csv. It also counts those that were not run.
    trials_in_all = len(Study(tmp_path / "toy", toy_job(tmp_path), {}).rows()) + MORE
    edit(tmp_path / "toy", "budget.trials", trials_in_all)

    found = run.resume(tmp_path / "toy", opener=open_toy)
    assert len(found.trials) == trials_in_all
    assert found.summary["ended"] == "all trials are spent"
    same = found.trials[found.trials["trial"].isin(before["trial"])].reset_index(drop=True)
    columns = ["trial", "status", "accuracy", "latency_ratio", "recipe"]
    assert same[columns].equals(before[columns]), "finished rows must not change"

    runs = [json.loads(line) for line in runs_file.read_text().splitlines()]
    ran_again = {json.dumps(one["values"], sort_keys=True) for one in runs[ran_before:]}
    assert ran_again
    assert not ran_again & {json.dumps(recipe, sort_keys=True) for recipe in before["recipe"]}
    noted = [one["key"] for one in runs]
    twice = [key for key, count in Counter(noted).items() if count > 1]
    assert len(twice) <= 1, "only the recipe that was running at the kill may run again"
    rows = [json.dumps(recipe, sort_keys=True) for recipe in found.trials["recipe"]]
    assert len(set(rows)) == trials_in_all

    once_more = run.resume(tmp_path / "toy", opener=open_toy)
    assert len(once_more.trials) == trials_in_all
    assert len(runs_file.read_text().splitlines()) == len(noted), "nothing was left to run"


def test_resume_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        run.resume(tmp_path)


@pytest.mark.parametrize("budget", [{"trials": 0}, {"trials": -3}, {"minutes": -1.0}, {"minutes": 0.0}])
def test_resume_refuses_an_invalid_budget(tmp_path: Path, budget: dict[str, Any]) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    with pytest.raises(UserError, match=next(iter(budget))) as error:
        run.resume(folder, opener=open_toy, **budget)
    assert "\n" not in str(error.value)


def test_resume_refuses_a_job_with_missing_names(tmp_path: Path) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    file = folder / "job.yaml"
    file.write_text(file.read_text().replace("model: resnet10t", "model: gone"))
    with pytest.raises(UserError, match="gone"):
        run.resume(folder, opener=open_toy)


def test_resume_refuses_another_baseline(tmp_path: Path) -> None:
    def retrained(job: Job, progress: Any = None) -> OpenedToy:
        opened = open_toy(job, progress)
        opened.baseline = replace(opened.baseline, key="another")
        return opened

    offer_toy_device()
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 1e-6})
    run.search(job, opener=open_toy)
    with pytest.raises(UserError, match="the baseline is not the one that this run began with"):
        run.resume(job.folder, opener=retrained)
    assert run.resume(job.folder, opener=open_toy).summary["ended"] == "the time is up"


def coloured_folder(root: Path, roles: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """Pictures of two classes for each of ``roles``."""
    for role in roles:
        for number, name in enumerate(("dark", "light")):
            (root / role / name).mkdir(parents=True)
            for i in range(4):
                grey = np.full((8, 8), 40 + 90 * number + 10 * i + len(role), np.uint8)
                Image.fromarray(grey).save(root / role / name / f"{i}.png")
    return root


@pytest.mark.parametrize(("role", "word"), [("train", "training"), ("val", "validation"), ("test", "test")])
def test_resume_refuses_other_images(tmp_path: Path, role: str, word: str) -> None:
    pictures = coloured_folder(tmp_path / "pictures")
    job = toy_job(tmp_path, data=f"folder:{pictures}", budget={"trials": 4, "minutes": 1e-6})

    def with_images(job: Job, progress: Any = None) -> OpenedToy:
        opened = open_toy(job, progress)
        opened.splits = data.load(job.data)  # type: ignore[attr-defined]
        return opened

    offer_toy_device()
    run.search(job, opener=with_images)
    assert run.resume(job.folder, opener=with_images).summary["ended"] == "the time is up"
    moved = pictures / role / "light" / "moved.png"
    (pictures / role / "dark" / "0.png").rename(moved)
    with pytest.raises(UserError, match=f"^the {word} images changed since the search in ") as error:
        run.resume(job.folder, opener=with_images)
    assert "\n" not in str(error.value)
    moved.rename(pictures / role / "dark" / "0.png")
    assert run.resume(job.folder, opener=with_images).summary["ended"] == "the time is up"


@pytest.mark.parametrize("recorded", ["nothing", "other digests"])
def test_resume_of_a_run_that_an_earlier_version_began(tmp_path: Path, recorded: str) -> None:
    """It recorded no images, or other digests of them. The first resume records them."""

    def with_images(job: Job, progress: Any = None) -> OpenedToy:
        opened = open_toy(job, progress)
        opened.splits = data.load(job.data)  # type: ignore[attr-defined]
        return opened

    folder = begun(tmp_path)  # the opened job has no images
    file = folder / STUDY_FILE
    lines = [line for line in file.read_text().splitlines() if '"images"' not in line]
    assert len(lines) == len(file.read_text().splitlines()) - 1
    file.write_text("\n".join(lines) + "\n")
    if recorded == "other digests":
        Study(folder, toy_job(tmp_path), {}).keep_images({"training": "a", "validation": "b", "test": "c"})
    assert run.resume(folder, opener=with_images).summary["ended"] == "the time is up"
    assert (Study(folder, toy_job(tmp_path), {}).images or {})["validation"] not in ("", "b")


def test_the_digest_of_sealed_images_is_not_computed(tmp_path: Path) -> None:
    splits = data.load(DataConfig(train=f"folder:{coloured_folder(tmp_path)}"))
    assert set(images_of(splits)) == {"version", "training", "validation", "test"}
    sealed = Sealed(splits.test)
    assert set(images_of(replace(splits, test=sealed))) == {"version", "training", "validation"}
    assert not sealed.refused
    assert not sealed.openings


def begun(tmp_path: Path, **settings: Any) -> Path:
    """The folder of a run with its study, before the first trial."""
    offer_toy_device()
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 1e-6}, **settings)
    run.search(job, opener=open_toy)
    return job.folder


def edit(folder: Path, key: str, value: Any) -> None:
    """Changes one key of job.yaml, as a user might."""
    file = folder / "job.yaml"
    values = yaml.safe_load(file.read_text())
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    file.write_text(yaml.safe_dump(values))


def never(job: Job, progress: Any = None) -> OpenedToy:
    raise AssertionError("the baseline would be trained before the difference is told")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objectives", ["accuracy", "size"]),
        ("model", "resnet18"),
        ("model_args", {"drop_rate": 0.1}),
        ("data", "glyphs"),
        ("data", {"train": "digits", "val": "digits", "test": "glyphs"}),
        ("device.batch", 2),
        ("device.input_size", 64),
        ("constraints.latency", "0.3x"),
        ("constraints.accuracy_drop", 2.0),
        ("space", {"toy": {"width": [1.0, 0.5]}}),
        ("granularity", "block"),
        ("baseline.epochs", 3),
        ("seed", 7),
        ("cost_model", "45nm"),
    ],
)
def test_resume_refuses_a_changed_job(tmp_path: Path, key: str, value: Any) -> None:
    """Rows of different jobs must not be in one table, because ratios have other references."""
    folder = begun(tmp_path)
    edit(folder, key, value)
    with pytest.raises(UserError, match=key.replace(".", r"\.")) as error:
        run.resume(folder, opener=never)
    assert "\n" not in str(error.value)


def test_the_difference_is_named_with_both_values(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    edit(folder, "objectives", ["accuracy", "size"])
    edit(folder, "seed", 7)
    with pytest.raises(UserError) as error:
        run.resume(folder, opener=never)
    told = "'objectives' was accuracy, latency when the search began and is accuracy, size now ('seed' changed too)"
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("budget.trials", 6), ("budget.epochs", 1), ("budget.trial_minutes", 7.0), ("workers", 2), ("sampler", "random")],
)
def test_keys_that_change_no_row_may_be_edited(tmp_path: Path, key: str, value: Any) -> None:
    folder = begun(tmp_path)
    edit(folder, key, value)
    assert run.resume(folder, opener=open_toy).summary["ended"] == "the time is up"


@pytest.mark.parametrize("renamed", ["job", "folder"])
def test_a_renamed_run_has_the_same_study(tmp_path: Path, renamed: str) -> None:
    folder = begun(tmp_path)
    Study(folder, toy_job(tmp_path), {}).spend(17.0)
    if renamed == "job":
        edit(folder, "name", "another")
    else:
        folder = folder.rename(tmp_path / "another")
    run.resume(folder, opener=open_toy)
    assert len(optuna.study.get_all_study_names(journal(folder))) == 1
    assert Study(folder, toy_job(tmp_path, name="third"), {}).seconds >= 17.0
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}, "nothing was written elsewhere"


def test_a_study_of_an_earlier_version_is_found_under_its_old_name(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    optuna.create_study(storage=journal(job.folder), study_name="toy", directions=["maximize", "minimize"])
    Study(job.folder, job, {}).spend(3.0)
    assert optuna.study.get_all_study_names(journal(job.folder)) == ["toy"]


def journal(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "study.journal")))


@pytest.mark.parametrize("changed", ["onnxruntime", "torch", "autocompress"])
def test_resume_refuses_other_versions(tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path)
    if changed == "onnxruntime":
        monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        real = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9" if name == changed else real(name))
    name = "runtime" if changed == "onnxruntime" else changed
    with pytest.raises(UserError, match=rf"'{name}' was .*9\.9\.9 now") as error:
        run.resume(folder, opener=never)
    assert "\n" not in str(error.value)


def test_resume_refuses_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of two processors are not comparable. Those of a cost model are."""
    job, modelled = toy_job(tmp_path), manager().device("cost-model:bitops")
    measured_here, modelled_here = begun_with(job, OnnxRuntimeCpu()), begun_with(job, modelled)
    check_resumable(job.folder, measured_here, begun_with(job, OnnxRuntimeCpu()))
    monkeypatch.setattr(keys, "machine", lambda: {**machine(), "processor": "another processor"})
    with pytest.raises(UserError, match=r"'processor' was .* and is another processor now"):
        check_resumable(job.folder, measured_here, begun_with(job, OnnxRuntimeCpu()))
    check_resumable(job.folder, modelled_here, begun_with(job, modelled))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            {"space": "default"},
            {"space": {"bits": 8}},
            "'space' was default when the search began and is {'bits': 8} now",
        ),
        ({"space": {"a": {"b": 1}}}, {"space": {}}, "'space.a.b' was 1 when the search began and is not set now"),
        ({"model": "a", "seed": 1}, {"model": "b", "seed": 2}, "is b now ('seed' changed too)"),
        (
            {"checkpoint": None},
            {"checkpoint": "a.pt"},
            "'checkpoint' was not set when the search began and is a.pt now",
        ),
        ({"pretrained": True}, {"pretrained": False}, "'pretrained' was true when the search began and is false now"),
        ({"methods": ["a", "b"]}, {"methods": []}, "'methods' was a, b when the search began and is empty now"),
    ],
)
def test_differences_are_told_in_plain_words(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_resumable(tmp_path, {"job": before}, {"job": after, "machine": {}, "versions": {}})


def test_a_key_that_a_later_version_adds_is_no_difference(tmp_path: Path) -> None:
    now = begun_with(toy_job(tmp_path), OnnxRuntimeCpu())
    later = {**now, "job": {**now["job"], "compute": {"device": None}, "extras": {}}}
    check_resumable(tmp_path, now, later)


def test_a_run_of_a_version_without_explanations_is_resumed(tmp_path: Path) -> None:
    now = begun_with(toy_job(tmp_path), OnnxRuntimeCpu())
    search = {key: value for key, value in now["job"]["search"].items() if key != "explain"}
    assert "explain" in now["job"]["search"]
    check_resumable(tmp_path, {**now, "job": {**now["job"], "search": search}}, now)
    check_resumable(tmp_path, {**now, "job": {**now["job"], "search": {**search, "explain": False}}}, now)


def test_files_that_a_killed_search_left_are_removed(tmp_path: Path) -> None:
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    (rundir.scratch_folder(folder) / "model.onnx").touch()
    with rundir.driver(folder):
        assert not list(rundir.scratch_folder(folder).iterdir())
    assert not (folder / "ray" / "scratch").exists()


@pytest.mark.slow
def test_a_run_has_one_driver_only(tmp_path: Path) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    script = (
        "import sys, pathlib; from autocompress.searching import rundir\n"
        f"with rundir.driver(pathlib.Path({str(folder)!r})): print('driving', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "driving\n"
    with pytest.raises(UserError, match="another process is running the search"), rundir.driver(folder):
        pass
    other.kill()
    other.communicate()
    with rundir.driver(folder):
        pass

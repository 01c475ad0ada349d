"""The folder of a run.

Failed starts, names that can be used again, and a resume from any folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_search import OpenedToy, offer_toy_device, open_toy, toy_job

from autocompress import data
from autocompress.contract import manager
from autocompress.errors import UserError
from autocompress.job import Job, load_job
from autocompress.searching import run, rundir

NO_TIME = {"trials": 4, "minutes": 1e-6}
"""A search that fails before its first trial, so that Ray is not started."""


def failing(error: BaseException) -> Callable[..., OpenedToy]:
    def failing_opener(job: Job, progress: object = None) -> OpenedToy:
        raise error

    return failing_opener


@pytest.mark.parametrize(
    "error", [UserError("the data is gone", "bring it back"), ValueError("a bug"), KeyboardInterrupt()], ids=type
)
def test_a_failed_start_keeps_its_log_and_its_name_can_be_used_again(tmp_path: Path, error: BaseException) -> None:
    offer_toy_device()
    job = toy_job(tmp_path, budget=NO_TIME)
    with pytest.raises(type(error)):
        run.search(job, opener=failing(error))
    text = (job.folder / "log.txt").read_text()
    assert (str(error) or "ended by KeyboardInterrupt") in text
    assert ("Traceback" in text) == isinstance(error, ValueError)

    assert run.search(job, opener=open_toy).summary["ended"] == "the time is up"
    assert (job.folder / "log.txt").read_text().startswith(text), "the first start's log is still there"
    with pytest.raises(UserError, match="exists already"):
        run.search(job, opener=open_toy)


def test_another_job_may_use_the_name_of_a_failed_start(tmp_path: Path) -> None:
    """No file of the failed start is left, for example latencies of its structures."""
    offer_toy_device()
    with pytest.raises(ValueError):
        run.search(toy_job(tmp_path, seed=1), opener=failing(ValueError()))
    folder = tmp_path / "toy"
    (folder / "structures").mkdir()
    (folder / "structures" / "old.json").write_text("{}")
    (folder / "study.journal").write_text("of the failed start")
    run.search(toy_job(tmp_path, seed=2, budget=NO_TIME), opener=open_toy)
    assert load_job(folder / "job.yaml").seed == 2
    assert not (folder / "structures").exists()
    assert len((folder / "study.journal").read_text().splitlines()) > 1


def test_a_failed_start_can_be_resumed(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path, budget=NO_TIME)
    with pytest.raises(ValueError):
        run.search(job, opener=failing(ValueError()))
    assert run.resume(job.folder, opener=open_toy).summary["ended"] == "the time is up"


@pytest.mark.parametrize("name", ["notes.txt", "job.yaml", "log.txt", "trials.csv"])
def test_a_folder_of_the_user_is_not_changed(tmp_path: Path, name: str) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    (job.folder / name).write_text("mine")
    with pytest.raises(UserError, match="exists already"), rundir.begun(job, {}):
        pass
    assert [path.name for path in job.folder.iterdir()] == [name]
    assert (job.folder / name).read_text() == "mine"


def test_a_running_start_is_not_a_failed_start(tmp_path: Path) -> None:
    """Training a baseline takes minutes, in which the folder looks like that of a failed start."""
    job, folder = toy_job(tmp_path), rundir.create(toy_job(tmp_path, seed=5), {})
    script = (
        "import sys, pathlib; from autocompress.locks import FileLock\n"
        "with FileLock(pathlib.Path(sys.argv[1])).held(): print('driving', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(folder / "ray" / "driver.lock")]
    other = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == "driving\n"
    with pytest.raises(UserError, match="another process is running the search"), rundir.begun(job, {}):
        pass
    assert load_job(folder / "job.yaml").seed == 5
    other.communicate("")
    with rundir.begun(job, {}):
        assert load_job(folder / "job.yaml").seed == 0


def test_half_artifacts_of_a_killed_search_are_removed(tmp_path: Path) -> None:
    folder = rundir.create(toy_job(tmp_path), {})
    for name in ("3", ".4.0123abcd"):
        (folder / "artifacts" / name).mkdir(parents=True)
    with rundir.driver(folder):
        assert [path.name for path in (folder / "artifacts").iterdir()] == ["3"]


def test_an_unwritable_folder_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        rundir.create(toy_job(tmp_path / "file"), {})


def test_a_run_can_be_resumed_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths of the job are relative, including the folder of the run."""
    offer_toy_device()
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for number in range(4):
        for split in ("train", "val", "test"):
            for name in ("cat", "dog"):
                picture = home / "pictures" / split / name / f"{number}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 10 * number).save(picture)
    elsewhere.mkdir()
    (home / "space.yaml").write_text("space: {toy: {width: [1.0, 0.5]}}\n")
    torch.save({}, home / "weights.pt")
    (home / "wanted.yaml").write_text(
        "model: resnet10t\ncheckpoint: weights.pt\ndevice: toy\n"
        "data: {train: 'folder:pictures', test: 'folder:./pictures/../pictures'}\n"
        "space: ./space.yaml\nworkers: 1\nname: toy\nresults: out\n"
        f"budget: {json.dumps(NO_TIME)}\n"
    )
    monkeypatch.chdir(home)
    found = run.search(load_job("wanted.yaml"), opener=open_toy)
    assert found.folder == Path("out/toy")
    monkeypatch.chdir(elsewhere)
    again = run.resume("../home/out/toy", opener=open_toy)
    assert again.summary["ended"] == "the time is up"

    job = load_job(home / "out" / "toy" / "job.yaml")
    assert job.checkpoint == home / "weights.pt"
    assert job.data.test == f"folder:{home / 'pictures'}"
    assert job.space == {"toy.width": [1.0, 0.5]}
    assert len(data.load(job.data, manager().datasets()).train) == 8


def test_paths_of_data_sets_and_models_are_absolute_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    providers = {provider.name: provider for provider in manager().datasets()}
    named = next(provider for provider in providers.values() if provider.claims("torch/cifar10"))
    assert named.anchored("torch/cifar10@here") == f"torch/cifar10@{tmp_path}/here"
    assert named.anchored("torch/cifar10") == "torch/cifar10"
    assert named.anchored("wds/x@https://host/x.tar") == "wds/x@https://host/x.tar"
    assert providers["folder:PATH"].anchored("folder:~/here") == f"folder:{Path.home()}/here"
    assert providers["digits"].anchored("digits") == "digits"
    overlay = {"pretrained_cfg_overlay": {"file": "w.pth"}, "drop_rate": 0.1}
    job = load_job(
        model="local-dir:nets/mine", model_args=overlay, data="digits", device="cost-model:p.yaml", cost_model="q.yml"
    )
    found = run.anchored(job, manager())
    assert found.model == f"local-dir:{tmp_path}/nets/mine"
    assert found.model_args == {"pretrained_cfg_overlay": {"file": f"{tmp_path}/w.pth"}, "drop_rate": 0.1}
    assert found.device.name == f"cost-model:{tmp_path}/p.yaml"
    assert found.cost_model == f"{tmp_path}/q.yml"

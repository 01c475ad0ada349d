"""A full disk loses no finished work, and gives one sentence."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from little_room import no_file_larger_than, small_disk
from patience import Patience
from toy_search import OpenedToy, offer_toy_device, open_toy, toy_job

from autocompress import data, models
from autocompress.contract import Deployable, manager
from autocompress.devices.lock import MachineLock
from autocompress.errors import UserError
from autocompress.job import Job, load_job
from autocompress.searching import run
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.spool import Spool
from autocompress.searching.storing import journal
from autocompress.searching.storing.names import STUDY_FILE
from autocompress.searching.study import Study
from autocompress.store import Store
from autocompress.training import train_baseline

ROW = {"status": "complete", "accuracy": 90.0, "accuracy_drop": 0.0, "latency_ratio": 0.5, "seconds": 1.0}


def test_an_entry_without_room_is_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING, logger="autocompress"), no_file_larger_than(4096):
        for name in ("one", "two"):
            with store.making(name):
                store.put(name, {"a": torch.zeros(10_000)}, {})
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["there is no room left"]
    assert not store.has("one")
    assert [path.name for path in tmp_path.iterdir()] == [".making"], "no incomplete entry is left"
    store.put("one", {"a": torch.zeros(10_000)}, {})
    assert store.has("one"), "when there is room, entries are stored again"


# --- the study ------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with one finished trial and a running one, number 1."""
    offer_toy_device()
    monkeypatch.setattr(journal, "LOOK_AGAIN_S", 0.02)
    monkeypatch.setattr(journal, "WAIT_FOR_ROOM_S", 0.1)
    job = toy_job(tmp_path)
    opened = open_toy(job)
    made = Study(job.folder, job, {"accuracy": 90.0})
    for number in (0, 1):
        asked = made.ask(opened.compose)
        assert asked is not None
        assert asked.number == number
    made.tell(0, {**ROW, "trial": 0})
    return made


def again(study: Study) -> Study:
    """The study, as another process reads it."""
    return Study(study.job.folder, study.job, study.baseline)


def room(study: Study, more: int) -> int:
    return (study.job.folder / STUDY_FILE).stat().st_size + more


@pytest.mark.parametrize("more", [0, 1, 40])
def test_a_row_without_room_does_not_damage_the_study(study: Study, more: int) -> None:
    with no_file_larger_than(room(study, more)), pytest.raises(OSError, match="too large"):
        study.tell(1, {**ROW, "trial": 1})
    for one in (study, again(study)):
        assert [row["trial"] for row in one.rows()] == [0]
    study.tell(1, {**ROW, "trial": 1})
    for one in (study, again(study)):
        assert [row["trial"] for row in one.rows()] == [0, 1]


def test_a_finished_trial_waits_for_room(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "WAIT_FOR_ROOM_S", 120.0)
    teller = threading.Thread(target=study.tell, args=(1, {**ROW, "trial": 1}))
    with no_file_larger_than(room(study, 40)):
        teller.start()
        patience = Patience(10)
        while "waits for room" not in caplog.text and not patience.is_over:
            time.sleep(0.01)
        assert teller.is_alive()
    teller.join(60)
    assert [row["trial"] for row in again(study).rows()] == [0, 1]
    assert caplog.text.count("waits for room") == 1


@pytest.mark.parametrize("torn", [b'{"op_code": 8, "wor', b"\0" * 100_000, b'{"op_code": 8}'])
def test_a_truncated_line_of_a_dead_process_does_not_damage_the_study(study: Study, torn: bytes) -> None:
    with (study.job.folder / STUDY_FILE).open("ab") as file:
        file.write(torn)
    resumed = again(study)
    resumed.tell(1, {**ROW, "trial": 1})
    assert [row["trial"] for row in again(study).rows()] == [0, 1]


def test_an_unreadable_study_gives_one_sentence(study: Study) -> None:
    file = study.job.folder / STUDY_FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], "rubbish\n", *lines[1:]]))
    with pytest.raises(UserError, match=r"the study .*study.journal is damaged"):
        again(study)


def test_a_worker_without_room_for_its_row_loses_no_recipe(study: Study) -> None:
    allowance = Allowance(trials=5, deadline=None, trial_seconds=60.0)
    dispatcher = Dispatcher(study, open_toy(study.job).compose, allowance, Spool(study.job.folder), lambda _: None)
    taken = dispatcher.hand_out("worker 1")
    assert taken is not None
    dispatcher.lost("worker 1", "Traceback: ...\nOSError: [Errno 28] No space left on device: 'study.journal'")
    assert study.row(taken.number) is None
    assert study.recover() == 2, "the other trial is the interrupted one"
    tried_again = [dispatcher.hand_out(f"worker {number}") for number in (2, 3)]
    assert taken.values in [asked.values for asked in tried_again if asked is not None]


# --- a trial, the baseline ------------------------------------------------------------------------


class LargeArtifacts(OpenedToy):
    """An opened job whose artifacts have 100 kB."""

    def save_artifact(self, candidate: Any, deployable: Deployable, folder: Path, metrics: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(deployable.file.read_bytes() + b" " * 100_000)
        (folder / "metrics.json").write_text(json.dumps(metrics))


def open_large(job: Job, progress: object = None) -> LargeArtifacts:
    offer_toy_device()
    return LargeArtifacts(job, job.folder / "toy")


def trial(job: Job, opened: OpenedToy) -> Trial:
    measurer = Measurer.of(job, opened.device, manager())
    (job.folder / "ray").mkdir(parents=True, exist_ok=True)
    return Trial(opened, measurer, MachineLock(job.folder / "locks"), 0, job.folder, baseline_row(opened, measurer))


WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}


@pytest.mark.parametrize(("size", "stage"), [(2_000, "export"), (50_000, "save")])
def test_a_trial_without_room_has_a_reason_whatever_it_was_writing(tmp_path: Path, size: int, stage: str) -> None:
    job = toy_job(tmp_path)
    own = trial(job, open_large(job))
    with no_file_larger_than(size):
        row = own.run(WHOLE)
    assert row["status"] == "failed"
    assert row["reason"] == f"{stage}: there is no room left to write to {job.folder}"
    assert ("accuracy" in row) == (stage == "save"), "known figures are kept"


def test_a_trial_works_without_stored_latencies(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    own = trial(job, open_toy(job))
    (job.folder / "structures").write_text("a file in the place of the folder")
    assert own.run(WHOLE)["status"] == "complete"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"latency": 1}', '{"columns": {}}'])
def test_damaged_stored_latencies_are_measured_again(tmp_path: Path, text: str) -> None:
    job = toy_job(tmp_path)
    own = trial(job, open_toy(job))
    assert own.run(WHOLE)["status"] == "complete"
    [kept] = (job.folder / "structures").iterdir()
    whole = kept.read_text()
    kept.write_text(text)
    shutil.rmtree(job.folder / "artifacts")
    assert own.run(WHOLE)["status"] == "complete"
    assert kept.read_text() == whole


def test_a_baseline_that_could_not_be_stored_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_job(model="resnet10t", data="digits")
    splits = data.load(job.data)
    told: list[float] = []
    with small_disk(tmp_path / "disk", 256) as disk:
        monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(disk))
        with pytest.raises(UserError, match=r"there is no room left in .* for the baseline of"):
            train_baseline(job, models.create(job, splits.info), splits, lambda done, _: told.append(done))
    assert not told


@pytest.mark.usefixtures("search_here")
def test_a_search_on_a_full_disk_keeps_its_rows_and_can_be_resumed(tmp_path: Path) -> None:
    offer_toy_device()
    with small_disk(tmp_path / "disk", 2_000) as disk:
        job = toy_job(disk, budget={"trials": 3})
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * 1_850_000)
        with pytest.raises(UserError, match="there is no room left to write to") as told:
            run.search(job, opener=open_large)
        assert f"'autocompress resume {job.folder}' continues" in told.value.hint
        ballast.unlink()
        found = run.resume(job.folder, trials=5, opener=open_large)
        assert list(found.trials["trial"]) == [0, 1, 2, 3, 4]
        failed = found.trials[found.trials["status"] == "failed"]
        assert {reason.split(": ", 1)[1] for reason in failed["reason"]} == {
            f"there is no room left to write to {job.folder}"
        }
        assert found.trials["status"].iloc[0] == "complete", (
            "trials that were finished before the disk was full are kept"
        )
        assert found.trials["status"].iloc[4] == "complete"

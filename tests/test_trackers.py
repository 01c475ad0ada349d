"""Trackers.

The data that a search sends to local stores of MLflow, TensorBoard and Weights & Biases.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from example_run import example_rows, write_run
from patience import Patience
from toy_search import offer_toy_device, open_toy, toy_job

import autocompress_trackers as trackers
from autocompress.contract import manager
from autocompress.errors import Terminated
from autocompress.job import Job
from autocompress.results import SearchResult, read
from autocompress.searching import run
from autocompress.searching.progress import Silent
from autocompress_trackers import figures

TRIALS = 12


@pytest.fixture
def finished(tmp_path: Path) -> SearchResult:
    return read(write_run(tmp_path / "toy", trials=TRIALS))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    offer_toy_device()
    return toy_job(tmp_path)


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(trackers.VARIABLE, raising=False)
    yield
    for key in list(trackers._open):
        trackers._close(Path(key))


def send(job: Job, result: SearchResult) -> list[dict[str, Any]]:
    """Calls the hooks of a whole search; returns its rows."""
    rows, _ = example_rows(TRIALS)
    trackers.autocompress_search_started(job)
    for row in rows:
        trackers.autocompress_trial_finished(job, {"recipe": {}, **row})
    trackers.autocompress_search_finished(job, result)
    return rows


def test_nothing_is_sent_by_default(job: Job, finished: SearchResult) -> None:
    before = sorted(job.folder.rglob("*"))
    send(job, finished)
    assert sorted(job.folder.rglob("*")) == before


def test_an_unknown_tracker_is_named(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(trackers.VARIABLE, "tensorbord, ,")
    trackers.autocompress_search_started(job)
    assert "names 'tensorbord', which is no tracker; known: mlflow, tensorboard, wandb" in caplog.text


def test_a_missing_package_is_named_and_the_search_continues(
    job: Job, finished: SearchResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(trackers.VARIABLE, "mlflow")
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    monkeypatch.delitem(__import__("sys").modules, "autocompress_trackers.mlflow_store", raising=False)
    send(job, finished)
    assert "'pip install mlflow-skinny' adds it" in caplog.text


def test_a_tracker_that_fails_does_not_end_the_search(
    job: Job, finished: SearchResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise ConnectionError("the server is away")

    broken = SimpleNamespace(opened=lambda job: SimpleNamespace(trial=fail, finish=fail, close=fail))
    monkeypatch.setitem(trackers.MODULES, "broken", "broken")
    monkeypatch.setattr(trackers, "import_module", lambda name: broken)
    monkeypatch.setenv(trackers.VARIABLE, "broken")
    with caplog.at_level(logging.WARNING):
        send(job, finished)
    assert caplog.text.count("the server is away") == TRIALS + 2


def test_missing_figures_are_not_sent() -> None:
    row = {"trial": 3, "accuracy": None, "latency_ratio": float("nan"), "size_bytes": 10, "reason": "x"}
    assert figures.figures(row) == {"size_bytes": 10.0}


@pytest.mark.usefixtures("search_here")
def test_a_search_calls_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    one = SimpleNamespace(
        trial=lambda row: told.append(row["trial"]), finish=lambda result: told.append(result), close=lambda: None
    )
    monkeypatch.setattr(trackers, "import_module", lambda name: SimpleNamespace(opened=lambda job: one))
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    with suppress(ValueError):  # older installations have no entry point for it
        manager().register(trackers, name="trackers")
    offer_toy_device()
    run.search(toy_job(tmp_path, budget={"trials": 3}), opener=open_toy)
    assert told[:-1] == [0, 1, 2]
    assert isinstance(told[-1], SearchResult)


@pytest.mark.usefixtures("search_here")
@pytest.mark.parametrize("error", [Terminated(), RuntimeError("broken")])
def test_a_search_that_is_stopped_closes_its_trackers(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    one = SimpleNamespace(
        trial=lambda row: told.append("trial"),
        finish=lambda result: told.append("finish"),
        close=lambda: told.append("close"),
    )
    monkeypatch.setattr(trackers, "import_module", lambda name: SimpleNamespace(opened=lambda job: one))
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    with suppress(ValueError):  # older installations have no entry point for it
        manager().register(trackers, name="trackers")
    offer_toy_device()

    class Stopping(Silent):
        def on_trial(self, *told: Any) -> None:
            raise error

    with pytest.raises(type(error)):
        run.search(toy_job(tmp_path, budget={"trials": 3}), opener=open_toy, observer=Stopping())
    assert told[-1] == "close"
    assert "finish" not in told


# --- local stores ---------------------------------------------------------------------------------


def test_tensorboard(job: Job, finished: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX", reason="the extra 'tensorboard' is not installed")
    from tensorboardX.proto.event_pb2 import Event

    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    rows = send(job, finished)
    (file,) = (job.folder / "tensorboard").glob("events.*")
    content, events = file.read_bytes(), []
    while content:  # length, checksum, event, checksum
        (length,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    sent = {(one.tag, event.step): one.simple_value for event in events for one in event.summary.value}
    measured = [row for row in rows if row.get("latency_ratio") is not None]
    assert measured
    for row in measured:
        assert sent["trial/latency_ratio", row["trial"]] == pytest.approx(row["latency_ratio"], rel=1e-6)
    assert ("search/hypervolume", TRIALS) in sent


@pytest.mark.slow
def test_mlflow(job: Job, finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv(trackers.VARIABLE, "mlflow")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    rows = send(job, finished)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("autocompress")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    children = {one.data.tags["mlflow.runName"]: one for one in found if one is not parent}
    assert len(children) == TRIALS
    assert parent.info.status == "FINISHED"
    assert parent.data.params["model"] == "resnet10t"
    assert parent.data.metrics["hypervolume"] == pytest.approx(finished.summary["hypervolume"])
    assert "front.csv" in {one.path for one in client.list_artifacts(parent.info.run_id)}
    row = next(row for row in rows if row["status"] == "complete")
    child = children[f"trial {row['trial']}"]
    assert child.data.metrics["accuracy"] == pytest.approx(row["accuracy"])
    assert child.data.params == {name: str(value) for name, value in row["recipe"].items()}


@pytest.mark.slow
def test_no_run_of_mlflow_stays_open(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv(trackers.VARIABLE, "mlflow")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    client = mlflow.MlflowClient()

    def experiment() -> str:
        return client.get_experiment_by_name("autocompress").experiment_id

    def states() -> list[str]:
        return sorted(one.info.status for one in client.search_runs([experiment()]))

    trackers.autocompress_search_started(job)
    assert states() == ["RUNNING"]
    trackers.autocompress_search_stopped(job)
    assert states() == ["KILLED"]
    trackers.autocompress_search_started(job)
    trackers._open.clear()  # as if the process had been killed
    trackers.autocompress_search_started(job)
    assert states() == ["KILLED", "KILLED", "RUNNING"]
    (parent,) = [one for one in client.search_runs([experiment()]) if one.info.status == "RUNNING"]
    client.create_run(experiment(), tags={"mlflow.parentRunId": parent.info.run_id})
    trackers._open.clear()
    trackers.autocompress_search_started(job)
    assert states() == ["KILLED"] * 4 + ["RUNNING"], "its trial was sent too"
    trackers._open.clear()
    monkeypatch.setattr("platform.node", lambda: "another")
    trackers.autocompress_search_started(job)
    assert states() == ["KILLED"] * 4 + ["RUNNING"] * 2, "a search of another machine stays open"


@pytest.mark.slow
def test_weights_and_biases_offline(job: Job, finished: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(trackers.VARIABLE, "wandb")
    job.folder.mkdir(parents=True, exist_ok=True)
    send(job, finished)
    wandb.teardown()  # its service writes the file in another process
    (file,) = job.folder.glob("wandb/offline-run-*/run-*.wandb")
    patience = Patience(60)
    while b"hypervolume" not in file.read_bytes() and not patience.is_over:
        time.sleep(0.1)
    assert b"latency_ratio" in file.read_bytes()
    assert b"hypervolume" in file.read_bytes()

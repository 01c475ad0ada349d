"""Runs with results on a URL.

They can be restored on any machine, have one driver, and lose nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_storage import KINDS, storage
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.cli import app
from autocompress.contract import hookimpl, manager
from autocompress.errors import Terminated, UserError
from autocompress.job import Job, load_job
from autocompress.remote import Objects, RemoteError
from autocompress.searching import driverlease, run
from autocompress.searching.mirror import Mirror
from autocompress.searching.progress import Silent
from autocompress.searching.runurls import has_begun
from autocompress.searching.study import Study


@pytest.fixture(autouse=True, scope="module")
def _toy_device() -> None:
    offer_toy_device()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "one"))
    with storage(request.param, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Storage in a folder, for tests that do not depend on the kind of storage."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "one"))
    return f"file://{tmp_path}/storage"


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str = "two") -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / name))


def job_on(url: str, **settings: Any) -> Job:
    return toy_job(Path(url), sampler="random", search={"rungs": False, "tables": False}, **settings)


class _SeesTheRelease:
    """A plugin that records whether the run is released when it is called on SIGTERM."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    @hookimpl
    def autocompress_search_stopped(self, job: Job) -> None:
        self.seen.append(json.loads(Objects(job.run_url or "").read("driver.json") or b"")["done"])


class StopsAfter(Silent):
    """Stops the search after some rows, as SIGTERM does."""

    def __init__(self, rows: int) -> None:
        self._left = rows

    def on_trial(self, *arguments: Any) -> None:
        self._left -= 1
        if not self._left:
            raise Terminated


def test_a_job_with_results_on_a_url_is_written_and_read(place: str, tmp_path: Path) -> None:
    job = job_on("s3://bucket/runs/")
    assert job.run_url == "s3://bucket/runs/toy"
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert load_job(tmp_path / "job.yaml").run_url == job.run_url
    assert tmp_path / "one" in job.folder.parents
    assert job_on(place).run_url == f"{place}/toy"
    assert job_on(str(tmp_path)).run_url is None
    with pytest.raises(UserError, match="'results' holds a password"):
        job_on("s3://key:secret@bucket")


@pytest.mark.usefixtures("search_here")
def test_a_stopped_search_continues_on_another_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(url, budget={"trials": 5})
    plugin = _SeesTheRelease()
    manager().register(plugin)
    try:
        with pytest.raises(Terminated):
            run.search(job, observer=StopsAfter(3), opener=open_toy)
    finally:
        manager().unregister(plugin)
    assert plugin.seen == [True], "a slow plugin must not delay another machine"
    assert has_begun(job)
    before = [row["trial"] for row in Study(job.folder, job, {}).rows()]
    on_another_machine(monkeypatch, tmp_path)
    assert not job.folder.exists()
    result = run.resume(Path(job.run_url or ""), opener=open_toy)
    assert len(result.trials) == 5
    assert set(before) <= set(result.trials["trial"])
    assert len(before) >= 3
    # All files of a run are on the URL, and none that belong to this machine.
    remote = Objects(job.run_url or "")
    names = set(remote.names())
    assert {"job.yaml", "front.csv", "trials.csv", "report.html", "summary.json", "log.txt"} <= names
    assert not any(name.startswith(("ray/", "spool/", "study.journal")) for name in names)
    fronts = {f"{row['artifact']}/model.onnx" for _, row in result.front.iterrows() if isinstance(row["artifact"], str)}
    assert {name for name in fronts if name.startswith("artifacts/")} <= names
    assert json.loads(remote.read("driver.json") or b"")["done"]
    # On a third machine, nothing is left to do.
    on_another_machine(monkeypatch, tmp_path, "three")
    assert len(run.resume(Path(job.run_url or ""), opener=open_toy).trials) == 5
    with pytest.raises(UserError, match=r"exists already \('autocompress resume"):
        run.search(job, opener=open_toy)


@pytest.mark.usefixtures("search_here")
def test_a_search_stopped_before_its_first_row_continues_with_its_url(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(place, budget={"trials": 2})

    def stopped(*_: Any, **__: Any) -> Any:
        raise Terminated

    with pytest.raises(Terminated):
        run.search(job, opener=stopped)
    remote = Objects(job.run_url or "")
    assert json.loads(remote.read("driver.json") or b"")["done"], "the next driver does not wait for the lease"
    assert len(run.resume(job.folder, opener=open_toy).trials) == 2
    assert {"front.csv", "trials.csv"} <= set(remote.names())
    on_another_machine(monkeypatch, tmp_path)
    assert len(run.resume(Path(job.run_url or ""), opener=open_toy).trials) == 2


def test_the_hint_to_resume_names_the_url(place: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def stopped(job: Job, **_: Any) -> Any:
        job.folder.mkdir(parents=True)
        (job.folder / "job.yaml").write_text(job.to_yaml())
        raise Terminated

    monkeypatch.setattr(run, "search", stopped)
    words = ["search", "--model", "resnet18", "--data", "digits", "--name", "x", "--results", place]
    with pytest.raises(Terminated):
        app(words, standalone_mode=False)
    assert f"stopped; 'autocompress resume {place}/x' continues" in capsys.readouterr().err


@pytest.mark.usefixtures("search_here")
def test_the_same_machine_continues_from_its_own_journal(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_on(place, budget={"trials": 3})

    def away(*_: Any, **__: Any) -> bool:
        raise RemoteError("away")

    with monkeypatch.context() as patched, pytest.raises(Terminated):
        run.search(job, observer=_AwayFromTheSecondRow(patched, away), opener=open_toy)
    sent = len(Objects(job.run_url or "").names("journal"))
    rows = Study(job.folder, job, {}).rows()
    # The folder is enough, because it has its URL.
    monkeypatch.setattr(driverlease, "LEASE_S", 0.0)
    result = run.resume(job.folder, opener=open_toy)
    assert [row["trial"] for row in rows] == list(result.trials["trial"])[: len(rows)]
    assert len(rows) > sent, "rows that were not sent are not lost"


class _AwayFromTheSecondRow(Silent):
    def __init__(self, patched: pytest.MonkeyPatch, away: Any) -> None:
        self._patched, self._away, self._rows = patched, away, 0

    def on_trial(self, *arguments: Any) -> None:
        self._rows += 1
        self._patched.setattr(Objects, "put_bytes", self._away)
        if self._rows == 3:
            raise Terminated


def begun(job: Job) -> Mirror:
    """A mirror with a new run."""
    job.folder.mkdir(parents=True)
    (job.folder / "job.yaml").write_text(job.to_yaml())
    Study(job.folder, job, {"accuracy": 90.0})
    made = Mirror(job.run_url or "", job.folder)
    made.claim()
    made.begin()
    made.push()
    return made


def test_a_running_driver_excludes_others(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driverlease, "RENEWED_EVERY_S", 0.05)
    job = job_on(place)
    first = begun(job)
    with pytest.raises(UserError, match=r"another process is running the search in file://.*/toy \(wait for it"):
        Mirror(first.url, tmp_path / "two").claim(wait_s=60.0)  # it ends at the first renewal
    first.release()
    Mirror(first.url, tmp_path / "two").claim(wait_s=60.0)


def test_a_renewal_under_way_does_not_undo_a_release(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driverlease, "RENEWED_EVERY_S", 0.01)
    put, is_renewing = Objects.put_bytes, threading.Event()

    def slow(objects: Objects, key: str, content: bytes, **options: Any) -> bool:
        if key == driverlease.DRIVER and threading.current_thread().name == "lease":
            is_renewing.set()
            time.sleep(0.3)
        return put(objects, key, content, **options)

    monkeypatch.setattr(Objects, "put_bytes", slow)
    first = begun(job_on(place))
    assert is_renewing.wait(30)
    first.release()
    time.sleep(0.5)
    started = time.monotonic()
    Mirror(first.url, tmp_path / "two").claim(wait_s=20.0)
    assert time.monotonic() - started < 10.0, "the lease was released"


def test_a_driver_whose_lease_was_taken_over_ends(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driverlease, "RENEWED_EVERY_S", 60.0)
    job = job_on(place)
    first = begun(job)
    second = Mirror(first.url, tmp_path / "two")
    second.claim(wait_s=0.0)
    second.fetch()
    assert (second.folder / "study.journal").read_bytes() == (job.folder / "study.journal").read_bytes()
    second_study = Study(second.folder, job, {"accuracy": 90.0})
    second_study.spend(2.0)
    second.push()
    Study(job.folder, job, {"accuracy": 90.0}).spend(1.0)
    with pytest.raises(UserError, match=r"another process continues the search in file://.*\(this one ends\)"):
        first.push()
    third = Mirror(first.url, tmp_path / "three")
    third.claim(wait_s=0.0)
    third.fetch()
    assert Study(third.folder, job, {"accuracy": 90.0}).seconds == 2.0, "changes of the first driver do not count"


def test_a_piece_whose_answer_was_lost_is_not_sent_twice(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_on(place)
    first = begun(job)
    Study(job.folder, job, {"accuracy": 90.0}).spend(1.0)
    put = Objects.put_bytes

    def put_without_answer(*arguments: Any, **options: Any) -> bool:
        put(*arguments, **options)
        raise RemoteError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(Objects, "put_bytes", put_without_answer)
        first.push()
    Study(job.folder, job, {"accuracy": 90.0}).spend(2.0)
    first.push()
    pieces = Objects(first.url).read_all("journal")
    assert b"".join(pieces[name] for name in sorted(pieces)) == (job.folder / "study.journal").read_bytes()


def test_files_of_a_driver_that_lost_the_run_are_not_used(place: str, tmp_path: Path) -> None:
    job = job_on(place)
    first = begun(job)
    first.release()
    again = Mirror(first.url, tmp_path / "two")
    Objects(first.url).put_bytes("artifacts/0/model.onnx", b"of the run")
    for left in ("spool/0.1.json", "artifacts/0/model.onnx", "structures/0"):
        (again.folder / left).parent.mkdir(parents=True, exist_ok=True)
        (again.folder / left).write_text("of another trial")
    again.fetch()
    assert (again.folder / "artifacts" / "0" / "model.onnx").read_text() == "of the run"
    assert not (again.folder / "spool").exists()
    assert not (again.folder / "structures").exists()
    (again.folder / "spool").mkdir()
    again.fetch()
    assert (again.folder / "spool").exists(), "the folder is newer than the objects"


def test_a_url_without_a_run_or_without_write_access_gives_one_sentence(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file://.*/nothing is not a run: it has no job.yaml"):
        run.resume(Path(f"{place}/nothing"), opener=open_toy)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the results cannot be used: .* cannot be read from file://") as error:
        run.search(job_on(f"file://{tmp_path}/file"), opener=open_toy)
    assert "\n" not in str(error.value)

"""Studies on a server: real PostgreSQL and Redis servers, outages, and secrets."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import study_servers
from study_servers import KINDS, PASSWORD, Server
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.errors import UserError
from autocompress.files import own_variables, write_json
from autocompress.job import Job, load_job
from autocompress.results import JOB_FILE, write_trials
from autocompress.searching.run import resume, search, versions
from autocompress.searching.storing import outages
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0}
ROW = {"status": "complete", "accuracy": 80.0, "accuracy_drop": 10.0, "latency_ratio": 0.5}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with study_servers.server(request.param) as one:
        yield one


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    offer_toy_device()
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_PASSWORD", PASSWORD)


def job_with(server: Server, folder: Path, **more: object) -> Job:
    return toy_job(folder, search={"storage": server.url}, **more)


def trials_of(job: Job) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna reads them."""
    name = json.loads((job.folder / "study.json").read_text())["study"]
    address = (job.search.storage or "").replace("//", f"//:{PASSWORD}@", 1)
    storage: optuna.storages.BaseStorage
    if address.startswith("redis"):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(address, prefix=name))
    else:
        storage = optuna.storages.RDBStorage(
            address.replace(f":{PASSWORD}@searcher", f"searcher:{PASSWORD}").replace(
                "postgresql:", "postgresql+psycopg:"
            )
        )
    return optuna.load_study(study_name=name, storage=storage).trials


REDIS_ONLY = pytest.mark.parametrize("server", KINDS[:1], indirect=True)


def test_a_study_on_a_server_is_read_again_and_optuna_reads_it(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path)
    opened, study = open_toy(job), Study(job.folder, job, BASELINE)
    study.enqueue_starting_points(opened.starting_points())
    for _ in range(2):
        asked = study.ask(opened.compose)
        assert asked is not None
        study.tell(asked.number, {**ROW, "trial": asked.number})
    study.amend(1, {**ROW, "trial": 1, "reached": 1})
    study.spend(3.0)
    again = Study(job.folder, job, BASELINE)
    assert again.rows() == study.rows()
    assert again.rows()[1]["reached"] == 1
    assert (again.seconds, again.is_new) == (3.0, False)
    assert [trial.user_attrs["row"] for trial in trials_of(job) if "row" in trial.user_attrs] == [
        {**ROW, "trial": number} for number in (0, 1)
    ]
    other = job_with(server, tmp_path / "other")
    other.folder.mkdir(parents=True)
    assert Study(other.folder, other, BASELINE).rows() == [], "another run has a study of its own"


@REDIS_ONLY
@pytest.mark.usefixtures("search_here")
def test_a_search_keeps_its_study_on_a_server_and_a_resume_reads_it_there(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path, budget={"trials": 3})
    search(job, opener=open_toy)
    assert not (job.folder / "study.journal").exists()
    result = resume(job.folder, trials=5, opener=open_toy)
    assert list(result.trials["trial"]) == list(range(5))
    told = [trial.user_attrs["row"]["trial"] for trial in trials_of(job) if "row" in trial.user_attrs]
    assert told == list(range(5))
    for file in job.folder.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes(), f"{file} holds the password"
    assert PASSWORD not in own_variables().values(), "it is not sent to other nodes"


def test_an_outage_of_five_seconds_loses_and_repeats_nothing(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path)
    opened, study = open_toy(job), Study(job.folder, job, BASELINE)
    first = study.ask(opened.compose)
    assert first is not None
    server.kill()
    back = threading.Timer(5.0, server.start)
    began = time.monotonic()
    back.start()
    study.tell(first.number, {**ROW, "trial": first.number})
    assert time.monotonic() - began >= 4.5
    back.join()
    for _ in range(3):
        asked = study.ask(opened.compose)
        assert asked is not None
        study.tell(asked.number, {**ROW, "trial": asked.number})
    assert [row["trial"] for row in study.rows()] == [0, 1, 2, 3]
    again = Study(job.folder, job, BASELINE)
    assert [row["trial"] for row in again.rows()] == [0, 1, 2, 3]
    assert again.recover() == 0


def test_a_driver_ends_if_another_one_took_over_its_study(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path)
    opened, first = open_toy(job), Study(job.folder, job, BASELINE)
    asked = first.ask(opened.compose)
    assert asked is not None
    first.claim()
    second = Study(job.folder, job, BASELINE)
    first.keep(asked.number, {**ROW, "trial": asked.number})
    asked = first.ask(opened.compose)
    assert asked is not None
    second.claim()
    with pytest.raises(UserError, match="another process continues the study"):
        first.keep(asked.number, {**ROW, "trial": asked.number})
    assert [row["trial"] for row in second.rows()] == [0]


@REDIS_ONLY
@pytest.mark.usefixtures("search_here")
def test_a_refused_resume_does_not_take_over_the_study(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path, budget={"trials": 1})
    search(job, opener=open_toy)
    running = Study(job.folder, job, BASELINE)
    running.claim()
    running.keep_baseline_key("another one")
    with pytest.raises(UserError, match="the baseline is not the one"):
        resume(job.folder, trials=2, opener=open_toy)
    asked = running.ask(open_toy(job).compose)
    assert asked is not None
    running.keep(asked.number, {**ROW, "trial": asked.number})


@REDIS_ONLY
def test_a_study_that_the_server_has_lost_is_not_begun_again(server: Server, tmp_path: Path) -> None:
    job = job_with(server, tmp_path)
    Study(job.folder, job, BASELINE)
    name = json.loads((job.folder / "study.json").read_text())["study"]
    write_trials(job.folder, [{**ROW, "trial": 0}])
    write_json(job.folder / "study.json", {"study": f"{name}-lost", "storage": server.url})
    (job.folder / JOB_FILE).write_text(job.to_yaml(versions()))
    before = (job.folder / "trials.csv").read_bytes()
    with pytest.raises(UserError, match=f"the study {name}-lost of .* is not on {server.url}"):
        resume(job.folder, opener=open_toy)
    assert (job.folder / "trials.csv").read_bytes() == before


@REDIS_ONLY
def test_a_server_that_is_out_of_memory_gives_one_sentence(server: Server, tmp_path: Path) -> None:
    import redis

    job = job_with(server, tmp_path)
    study, admin = Study(job.folder, job, BASELINE), redis.Redis.from_url(server.url, password=PASSWORD)
    admin.config_set("maxmemory", "1")
    try:
        with pytest.raises(UserError, match=r"which keeps the study, cannot be used: .*(OOM|maxmemory)"):
            study.spend(1.0)
    finally:
        admin.config_set("maxmemory", "0")


def test_a_server_that_stays_away_or_refuses_gives_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_with(server, tmp_path)
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_PASSWORD", "wrong-one")
    with pytest.raises(UserError, match="which keeps the study, cannot be used") as refused:
        search(job, opener=open_toy)
    assert "wrong-one" not in str(refused.value)
    assert not job.folder.exists(), "before anything is made"
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_PASSWORD", PASSWORD)
    monkeypatch.setattr(outages, "WAITS_S", 0.5)
    study = Study(job.folder, job, BASELINE)
    server.kill()
    try:
        with pytest.raises(UserError, match="which keeps the study, cannot be used"):
            study.ask(open_toy(job).compose)
    finally:
        server.start()
        server.wait(lambda: study_servers.answers(server.url))


@REDIS_ONLY
def test_foreign_data_on_a_server_are_not_unpickled(server: Server, tmp_path: Path) -> None:
    import redis

    job = job_with(server, tmp_path)
    Study(job.folder, job, BASELINE).spend(3.0)
    name = json.loads((job.folder / "study.json").read_text())["study"]
    marker = tmp_path / "was here"
    redis.Redis.from_url(server.url, password=PASSWORD).set(f"{name}:snapshot", pickle.dumps(_Evil(marker)))
    assert Study(job.folder, job, BASELINE).seconds == 3.0
    assert not marker.exists()


class _Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:hush@host/db", "holds a password"),
        ("postgresql://me@host/db?password=hush", "holds a password"),
        ("redis://:hush@host", "holds a password"),
        ("postgresql://me@host/db?sslmode=require&ssl%70assword=hush", "holds a password"),
        ("rediss://host/0?ssl_password=hush", "holds a password"),
        ("redis://", "must be like"),
        ("mysql://host/hush", "must be like"),
        ("sqlite:///hush.db", "must be like"),
        ("redis://host/0 hush", "must be like"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        load_job(model="resnet18", data="digits", search={"storage": url})
    assert "hush" not in str(refused.value)


def test_a_url_may_name_the_file_with_the_password() -> None:
    url = "postgresql://me@host/db?passfile=/home/me/.pgpass"
    assert load_job(model="resnet18", data="digits", search={"storage": url}).search.storage == url


def test_a_study_does_not_move_between_its_folder_and_a_server(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    Study(job.folder, job, BASELINE)
    moved = toy_job(tmp_path, search={"storage": "redis://127.0.0.1:1/0"})
    with pytest.raises(UserError, match=r"is in its file study\.journal"):
        Study(moved.folder, moved, BASELINE)
    (job.folder / "study.journal").unlink()
    (job.folder / "study.json").write_text('{"study": "a-1", "storage": "redis://host"}')
    with pytest.raises(UserError, match="is on the server redis://host"):
        Study(job.folder, job, BASELINE)


def test_with_results_on_a_url_the_study_cannot_be_on_a_server() -> None:
    with pytest.raises(UserError, match="cannot be combined with results on a URL"):
        load_job(model="resnet18", data="digits", search={"storage": "redis://host"}, results="s3://bucket/runs")

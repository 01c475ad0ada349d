"""Jobs sent to a Ray cluster: the sent files, a real job server with a token, and bad input."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_here import Commands
from patience import Patience

from autocompress.job import load_job
from autocompress.submission import parcel
from autocompress.submission.fetching import fetch
from autocompress.submission.order import Order, order_of
from autocompress.submission.parcel import packed
from shared.two_nodes import free_port

PLUGIN = "from autocompress.contract import hookimpl\n\n\n@hookimpl\ndef autocompress_search_started(job):\n    pass\n"


def order(tmp_path: Path, results: str = "/shared/runs", **settings: object) -> Order:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return order_of(load_job(model="resnet18", data="digits", name="run", **settings), results=results)


# --- what is sent ---------------------------------------------------------------------------------


def test_a_parcel_has_autocompress_as_in_a_wheel(tmp_path: Path) -> None:
    (folder := tmp_path / "sent").mkdir()
    plugins = packed(order(tmp_path, plugins=[tmp_path / "mine.py"]), folder)
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    assert {"autocompress/cli/__main__.py", "autocompress_scop/__init__.py", "plugins/mine.py", "job.yaml"} <= names
    assert "autocompress/search_spaces/joint.yaml" in names
    assert not any("__pycache__" in name for name in names)
    (metadata,) = folder.glob("autocompress-*.dist-info")
    assert "scop = autocompress_scop" in (metadata / "entry_points.txt").read_text()
    sent = load_job(folder / "job.yaml")
    assert sent.plugins == (plugins / "mine.py",)
    assert plugins.parent == Path("/shared/runs/.plugins"), "where a resume finds them"
    assert str(sent.results) == "/shared/runs"


def test_a_parcel_that_ray_would_refuse_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 100_000)
    (folder := tmp_path / "sent").mkdir()
    with pytest.raises(parcel.UserError, match=r"have \d+ MiB, more than Ray accepts \(100 MiB\)"):
        packed(order(tmp_path), folder)


def test_plugins_of_a_run_on_a_url_are_refused(tmp_path: Path) -> None:
    (folder := tmp_path / "sent").mkdir()
    with pytest.raises(parcel.UserError, match="plugins cannot be sent with a run whose results are on a URL"):
        packed(order(tmp_path, "s3://bucket/runs", plugins=[tmp_path / "mine.py"]), folder)


# --- fetching -------------------------------------------------------------------------------------


def test_a_run_is_fetched_from_a_url_and_from_a_folder(tmp_path: Path) -> None:
    run = tmp_path / "storage" / "run"
    for name in ("job.yaml", "front.csv", "artifacts/3/model.onnx", "journal/00000000", "driver.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    for place, to in ((f"file://{run}", tmp_path / "a"), (str(run), tmp_path / "b")):
        folder = fetch(place, to)
        assert folder == to / "run"
        assert (folder / "artifacts/3/model.onnx").read_text() == "artifacts/3/model.onnx"
    assert not (tmp_path / "a" / "run" / "driver.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fetch", "/not/here"), "this machine cannot read /not/here (copy it from a node"),
        (("fetch", "file:///tmp/no-such-run-9"), "file:///tmp/no-such-run-9 is not a run"),
        (("fetch", "s3://key:secret@bucket/run"), "the URL holds a password"),
        (("fetch", "name"), "the place of the run 'name' is unknown (give --address, or its URL)"),
        (("status", "--address", "head:6379"), "'head:6379' is not the address of a job server (write it like http://"),
        (("status", "--address", "http://127.0.0.1:9", "--token", "/no/file"), "the token in /no/file cannot be read"),
        (("status", "--address", "http://127.0.0.1:9"), "no job server answers at http://127.0.0.1:9"),
    ],
)
def test_impossible_commands_give_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    told = Commands(monkeypatch, capsys)("cluster", *arguments, code=2)
    assert sentence in told
    assert "secret" not in told


# --- a real job server ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """The head of a cluster: its job server, and the file with its token."""

    address: str
    token: Path


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with a job server and a token. It ends with the module."""
    folder = Path(tempfile.mkdtemp(prefix="ac-head-", dir="/tmp"))  # sockets need a short path
    (token := folder / "token").touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port = free_port()
    options = {
        **{"port": free_port(), "dashboard-port": port, "ray-client-server-port": free_port()},
        **{"node-ip-address": "127.0.0.1", "dashboard-host": "127.0.0.1", "temp-dir": folder / "ray"},
        **{"num-cpus": 1, "num-gpus": 0, "object-store-memory": 100 * 2**20, "include-dashboard": "true"},
        **{"min-worker-port": 0, "max-worker-port": 0},
        # By default, all clusters of a machine share these ports, and the second cluster accepts no
        # jobs.
        **{name: free_port() for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port")},
        "metrics-export-port": free_port(),
    }
    words = ["--head", "--block", "--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    program = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *words]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(program, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, process, folder / "log")
        yield Head(f"http://127.0.0.1:{port}", token)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    patience = Patience(120)
    while not patience.is_over and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no job server: {log.read_text()[-2000:]}")


def _without_token(*words: object) -> str:
    """The error of a command without a token.

    It runs in a new process, because Ray remembers tokens.
    """
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-m", "autocompress.cli", *map(str, words)]
    done = subprocess.run(command, env={**environment, "HOME": tempfile.gettempdir()}, capture_output=True, text=True)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.slow
def test_a_job_is_sent_followed_and_stopped(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands, there = Commands(monkeypatch, capsys), ("--address", head.address)
    # No token, a wrong one, the right one.
    assert "requires a token" in _without_token("cluster", "status", *there)
    (tmp_path / "wrong").write_text(secrets.token_hex(32))
    assert "refuses this token" in commands("cluster", "status", *there, "--token", "wrong", code=2)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token))
    assert commands("cluster", "status", *there) == ""
    assert "no run 'quick' was sent" in commands("cluster", "logs", "quick", *there, code=2)
    # A stand-in for Python on the nodes, which prints its arguments and its folder.
    (tmp_path / "python").write_text("#!/bin/sh\necho \"asked: $*\"; ls; grep '^name' job.yaml\n")
    (tmp_path / "sleeper").write_text("#!/bin/sh\necho begun; exec sleep 120\n")
    for name in ("python", "sleeper"):
        (tmp_path / name).chmod(0o755)
    Path("mine.py").write_text(PLUGIN)
    Path("quick.yaml").write_text(
        f"model: resnet18\ndata: digits\nname: quick\nplugins: [mine.py]\nresults: {tmp_path}\n"
    )
    assert "sent as quick; results" in commands("submit", "quick.yaml", *there, "--python", tmp_path / "python")
    printed = commands("cluster", "logs", "quick", "--follow", *there)
    assert "asked: -m autocompress.cli search job.yaml --restartable --address auto" in printed
    assert {"autocompress", "autocompress_scop", "plugins", "job.yaml", "name: quick"} <= set(printed.splitlines())
    assert len(list((tmp_path / ".plugins").glob("*/mine.py"))) == 1
    assert "quick  succeeded" in commands("cluster", "status", "quick", *there)
    # A run has one job at a time. When it has ended, the run can be sent again.
    Path("long.yaml").write_text(f"model: resnet18\ndata: digits\nname: long\nresults: {tmp_path}\n")
    submit = ("submit", "long.yaml", *there, "--python", tmp_path / "sleeper")
    commands(*submit)
    assert "the run 'long' is under way" in commands(*submit, code=2)
    assert "long stopped" in commands("cluster", "stop", "long", *there)
    assert "sent as long-2" in commands(*submit)
    commands("cluster", "stop", "long", *there)
    assert head.token.read_text() not in commands("cluster", "status", *there)

"""Requirements of Ray on a machine.

Checked before anything expensive, and worked around if possible.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import patient
from test_stopping import SEARCH
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.errors import UserError
from autocompress.searching import localray, run

TESTS = Path(__file__).parent
LONG = "folders-of-macos-have-forty-nine-characters-in-all"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path. No environment variable names another one."""
    for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_short_folder_of_the_user_is_used(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder))
    assert localray.check().base == short_folder


@pytest.mark.parametrize("tmpdir", [LONG, "missing", "file", "."])
def test_a_folder_that_ray_cannot_use_is_skipped(
    short_folder: Path, tmpdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = short_folder / "run"
    runtime.mkdir()
    (short_folder / LONG).mkdir()
    (short_folder / "file").touch()
    monkeypatch.setenv("TMPDIR", tmpdir if tmpdir == "." else str(short_folder / tmpdir))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert localray.check().base == runtime
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert localray.check().base == Path("/tmp")


def test_the_longest_socket_path_fits(short_folder: Path) -> None:
    """Ray limits the length of its longest socket path."""
    room = localray.LONGEST_SOCKET - len(f"/{localray.PREFIX}12345678{localray.BELOW_SCRATCH}")
    fits = Path(f"{short_folder}/".ljust(room, "x"))
    too_long = Path(f"{fits}x")
    for folder in (fits, too_long):
        folder.mkdir()
    assert localray._fault_of(fits, 0) is None
    assert localray._fault_of(too_long, 0) == "its path is too long"


@pytest.mark.usefixtures("own_cluster")
def test_without_any_folder_there_is_a_reason_and_nothing_is_written(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    openings = []
    monkeypatch.setattr(shutil, "disk_usage", full)
    offer_toy_device()
    with pytest.raises(UserError, match=r"no folder for its sockets \(/tmp: less than 150 MiB free") as error:
        run.search(toy_job(tmp_path), opener=lambda job, progress=None: openings.append(1) or open_toy(job))
    assert "TMPDIR" in error.value.hint
    assert not openings
    assert not list(tmp_path.iterdir())


def test_without_a_loopback_interface_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> socket.socket:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(UserError, match=r"over 127\.0\.0\.1: Network is unreachable"):
        localray.check()


def test_missing_shared_memory_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localray, "SHARED_MEMORY", tmp_path / "shm")
    assert localray.check().store_in_scratch


def test_files_of_a_killed_process_are_removed(short_folder: Path) -> None:
    """Files are removed if they are old and no process listens.

    Another container may share the folder.
    """
    names = ("old", "used", "young")
    servers = []
    for name in names:
        sockets = short_folder / f"{localray.PREFIX}{name}" / "session_2026-11-29_16-43-07_706706_1" / "sockets"
        sockets.mkdir(parents=True)
        servers.append(socket.socket(socket.AF_UNIX))
        servers[-1].bind(str(sockets / "raylet"))
        if name == "used":
            servers[-1].listen()
        else:
            servers[-1].close()
        if name != "young":
            os.utime(short_folder / f"{localray.PREFIX}{name}", (0, 0))
    localray._sweep(short_folder)
    assert sorted(path.name for path in short_folder.iterdir()) == ["ac-ray-used", "ac-ray-young"]
    servers[1].close()


TWO_CLUSTERS = """
import json, os, psutil, ray, signal, time
from pathlib import Path
from autocompress.searching import localray

before, facts = dict(os.environ), []
handler = lambda *_: None
signal.signal(signal.SIGTERM, handler)
for _ in range(2):
    with localray.cluster(1):
        pid = ray.get(ray.remote(lambda: os.getpid()).remote())
        (scratch,) = localray.active
        started = localray.processes(scratch)
        listening = {
            connection.laddr.ip
            for process in started
            for connection in process.net_connections()
            if connection.status == "LISTEN"
        }
    def left():
        return [process.pid for process in started if process.is_running() and process.status() != "zombie"]
    ends = time.monotonic() + 30
    while left() and time.monotonic() < ends:  # the system needs a moment to end killed processes
        time.sleep(0.05)
    facts.append({
        "worker": pid in [process.pid for process in started],
        "listening": sorted(listening),
        "left": left(),
        "scratch": scratch.exists(),
        "handler": signal.getsignal(signal.SIGTERM) is handler,
    })
changed = sorted(name for name, value in os.environ.items() if before.get(name) != value)
facts.append({"changed": changed, "home": os.listdir(os.environ["HOME"])})
print(json.dumps(facts))
"""


@pytest.mark.slow
def test_a_cluster_is_local_and_leaves_no_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_CLUSTERS],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(300),
    )
    assert done.returncode == 0, done.stderr
    *clusters, rest = json.loads(done.stdout.splitlines()[-1])
    for facts in clusters:
        assert {ip.removeprefix("::ffff:") for ip in facts.pop("listening")} == {"127.0.0.1"}
        assert facts == {"worker": True, "left": [], "scratch": False, "handler": True}
    assert not [name for name in rest["changed"] if "AUTH" in name or "CLUSTER" in name], rest["changed"]
    assert ".ray" not in rest["home"]


HARD = 'ip link set lo up && mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
"""No network but the loopback interface, hardly any shared memory."""


def can_unshare() -> bool:
    probe = ["unshare", "--net", "--mount", "sh", "-c", HARD.replace('exec "$@"', "true")]
    return (
        shutil.which("unshare") is not None and subprocess.run(probe, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.slow
def test_a_search_on_a_restricted_machine(tmp_path: Path) -> None:
    """It has a long TMPDIR, no writable home folder and, if the test can do that, no network."""
    long = tmp_path / LONG
    long.mkdir()
    command = [sys.executable, str(TESTS / "toy_cli.py"), *SEARCH, "--trials", "2"]
    if can_unshare():
        command = ["unshare", "--net", "--mount", "sh", "-c", HARD, "sh", *command]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(long), "HOME": "/proc/no-home"}
    environment.pop("XDG_RUNTIME_DIR", None)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=patient(300)
    )
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stdout

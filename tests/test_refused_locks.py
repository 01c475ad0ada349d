"""Without ``flock``, runs, studies and the store still work."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import refusing
import torch
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.errors import UserError
from autocompress.searching import run, rundir
from autocompress.store import Store

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing.flock)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cluster")
def test_a_search_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In worker processes it is refused too, by a module that they import first."""
    (tmp_path / "sitecustomize.py").write_text("import refusing; refusing.install()\n")
    paths = [str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    offer_toy_device()
    job = toy_job(tmp_path, budget={"trials": 2}, workers=1)
    assert len(run.search(job, opener=open_toy).trials) == 2
    assert len(run.resume(job.folder, opener=open_toy).trials) == 2
    assert not list(job.folder.rglob("*.lease")), "a finished run leaves no marker"


@pytest.mark.slow
def test_a_second_driver_is_refused_at_once_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    script = (
        "import refusing, sys, pathlib; refusing.install(); from autocompress.searching import rundir\n"
        f"with rundir.driver(pathlib.Path({str(folder)!r})): print('driving', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", script], text=True, env=environment, **pipes)
    assert other.stdout is not None
    assert other.stdout.readline() == "driving\n"
    with pytest.raises(UserError, match="another process is running the search"), rundir.driver(folder):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with rundir.driver(folder):
        pass


def test_one_process_makes_an_entry_and_the_others_wait(tmp_path: Path) -> None:
    store, waited = Store(tmp_path), threading.Event()
    made: list[str] = []

    def other() -> None:
        with Store(tmp_path).making("key", waited.set):
            made.append("found" if store.has("key") else "again")

    thread = threading.Thread(target=other)
    with store.making("key"):
        thread.start()
        assert waited.wait(60)
        store.put("key", {"x": torch.ones(1)}, {})
    thread.join(60)
    assert made == ["found"]

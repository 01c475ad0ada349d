"""Ctrl-C, SIGTERM, closed terminals and exit codes of the command line, with the toy job."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from patience import Patience, slowness
from toy_forks import ForkServer

from autocompress import results
from autocompress.errors import ExitCode

pytestmark = [pytest.mark.timing, pytest.mark.slow]
TESTS = Path(__file__).parent
SEARCH = ("search", "--model", "resnet10t", "--data", "digits", "--device", "toy", "--name", "toy")
ENVIRONMENT = {"TMPDIR": "/tmp", "COLUMNS": "120"}
ENDS_WITHIN_S = 3.0
"""Seconds that a batch system allows."""


class Toy:
    """A toy command in a process of its own, in ``folder``."""

    def __init__(self, server: ForkServer, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder, self.run = folder, folder / "results" / "toy"
        self.process = server.start(arguments, folder, folder / "out.txt", ENVIRONMENT | environment)

    def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Waits until ``condition`` holds."""
        patience = Patience(seconds)
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.said}"
            assert not patience.is_over, self.said
            time.sleep(0.05)

    def until_rows(self, count: int) -> None:
        """Waits until trials.csv has this many rows."""
        file = self.run / results.TRIALS_FILE
        self.until(lambda: file.exists() and len(file.read_text().splitlines()) > count)

    def stop(self, number: int) -> float:
        """Sends a signal; returns the seconds until its end, as on a usual machine."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        return (time.monotonic() - began) / slowness()

    @property
    def said(self) -> str:
        """Its output so far."""
        return (self.folder / "out.txt").read_text(encoding="utf-8", errors="replace")


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[ForkServer]:
    del cache
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    server = ForkServer({**os.environ, "PYTHONPATH": path, **ENVIRONMENT})
    yield server
    server.stop()


@pytest.fixture
def toy(server: ForkServer, tmp_path: Path) -> Iterator[Callable[..., Toy]]:
    """Starts toy commands in one folder, and ends those that still run."""
    started: list[Toy] = []

    def start(*arguments: str, **environment: str) -> Toy:
        started.append(Toy(server, tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A TMPDIR for the test, short enough for Ray."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def test_sigterm_then_a_resume_with_ctrl_c_then_another_resume(toy: Callable[..., Toy], short_folder: Path) -> None:
    files = {"TMPDIR": str(short_folder)}
    search = toy(*SEARCH, "--trials", "1000", "--set", "space.toy.seconds=0.3", PYTHONIOENCODING="ascii", **files)
    search.until_rows(3)
    assert len(list(short_folder.glob("ac-ray-*"))) == 1
    children = psutil.Process(search.process.pid).children(recursive=True)
    assert any("ray::" in child.name() for child in children)
    assert search.stop(signal.SIGTERM) < ENDS_WITHIN_S
    assert search.process.returncode == ExitCode.TERMINATED
    assert "'autocompress resume results/toy' continues" in search.said
    assert re.search(r"\d\.\d\dx", search.said), "the terminal has no multiplication sign"
    patience = Patience(5)
    while alive := [child for child in children if runs(child)]:
        assert not patience.is_over, alive
        time.sleep(0.05)
    assert not list(short_folder.glob("ac-ray-*"))
    done = len(results.read(search.run).trials)

    resumed = toy("resume", "results/toy", **files)
    resumed.until_rows(done + 2)
    assert resumed.stop(signal.SIGINT) < 2 * ENDS_WITHIN_S
    assert resumed.process.returncode == ExitCode.INTERRUPTED
    assert not list(short_folder.glob("ac-ray-*"))
    found = results.read(search.run)
    assert found.summary["ended"] == results.INTERRUPTED
    assert len(found.models) > 0
    assert found.models["latency_ratio_low"].notna().all()
    sentence = f"The search was interrupted after {len(found.trials)} of 1000 trials."
    assert sentence in resumed.said.replace("\n", " ")
    assert sentence in (search.run / "report.html").read_text(encoding="utf-8")

    closed = toy("resume", "results/toy", "--trials", "1")
    assert closed.process.wait(timeout=60) == ExitCode.DONE
    assert f"{len(found.trials)} of 1 trials are done: none is left" in closed.said
    found = results.read(search.run)
    assert found.summary["ended"] == "all trials are spent"
    assert found.models["test_accuracy"].notna().all()


@pytest.mark.slow
@pytest.mark.parametrize(("where", "how"), [("TOY_OPENING", "block"), ("TOY_CLOSING", "sleep")])
def test_sigterm_outside_of_trials(toy: Callable[..., Toy], where: str, how: str) -> None:
    search = toy(*SEARCH, "--minutes", "0.000001", **{where: how})
    search.until(lambda: "waiting" in search.said)
    assert search.stop(signal.SIGTERM) < ENDS_WITHIN_S
    assert search.process.returncode == ExitCode.TERMINATED
    # If the main thread is inside a kernel, another thread logs it and ends the process.
    assert search.said.count("stopped; 'autocompress resume results/toy' continues") == 1
    if how == "block":
        assert "stopped by SIGTERM; 'autocompress resume results/toy' continues" in (search.run / "log.txt").read_text()
        return
    resumed = toy("resume", "results/toy", "--minutes", "0.000001")
    assert resumed.process.wait(timeout=60) == ExitCode.NO_MODEL_FITS
    assert "No trial was made: the time is up." in resumed.said


@pytest.mark.slow
def test_ctrl_c_before_the_first_trial(toy: Callable[..., Toy]) -> None:
    search = toy(*SEARCH, TOY_OPENING="sleep")
    search.until(lambda: "waiting" in search.said)
    assert search.stop(signal.SIGINT) < ENDS_WITHIN_S
    assert search.process.returncode == ExitCode.INTERRUPTED
    assert "interrupted; 'autocompress resume results/toy' continues" in search.said
    assert "Traceback" not in search.said


@pytest.mark.slow
def test_one_ctrl_c_while_it_closes_is_enough(toy: Callable[..., Toy]) -> None:
    search = toy(*SEARCH, "--minutes", "0.000001", TOY_CLOSING="sleep")
    search.until(lambda: "waiting" in search.said)
    assert search.stop(signal.SIGINT) < 2 * ENDS_WITHIN_S
    assert search.process.returncode == ExitCode.INTERRUPTED
    assert results.read(search.run).summary["ended"] == results.INTERRUPTED


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(toy: Callable[..., Toy]) -> None:
    search = toy(*SEARCH, TOY_OPENING="block")
    search.until(lambda: "waiting" in search.said)
    search.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert search.process.poll() is None, "Python cannot handle the signal there"
    assert search.stop(signal.SIGINT) < ENDS_WITHIN_S
    assert search.process.returncode == ExitCode.INTERRUPTED


@pytest.mark.slow
def test_a_closed_terminal_ends_no_search(toy: Callable[..., Toy]) -> None:
    search = toy(*SEARCH, "--minutes", "0.000001", TOY_OPENING="moment")
    search.until(lambda: "waiting" in search.said)
    search.process.send_signal(signal.SIGHUP)
    assert search.process.wait(timeout=60) == ExitCode.NO_MODEL_FITS
    assert results.read(search.run).summary["ended"] == "the time is up"

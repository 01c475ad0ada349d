"""MachineLock with real processes.

Measurements are alone, trainings give way, and dead processes hold no lock.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from patience import Patience

from autocompress.devices.lock import MachineLock
from autocompress.locks import machine_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")

START = """
import os, sys, time
from pathlib import Path
from autocompress.devices.lock import MachineLock
lock, log = MachineLock(Path(sys.argv[1])), open(sys.argv[2], "a", buffering=1)
def say(word): log.write(f"{word} {os.getpid()} {time.monotonic()}\\n")
"""

TRAIN = """
with lock.shared():
    for batch in range(10_000):
        say("batch"); time.sleep(0.02); lock.breathe()
"""

MEASURE = """
for _ in range(int(sys.argv[3])):
    with lock.exclusive():
        say("enter"); time.sleep(0.03); say("leave")
"""

HOLD = """
with lock.exclusive():
    if "fork" in sys.argv and os.fork() == 0:
        say("child"); time.sleep(30); os._exit(0)
    say("held"); time.sleep(30)
"""

Start = Callable[..., subprocess.Popen[bytes]]


class Log:
    """The lines that processes wrote: (word, process, monotonic seconds)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[tuple[str, int, float]]:
        text = self.path.read_text() if self.path.exists() else ""
        fields = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return sorted(((word, int(pid), float(at)) for word, pid, at in fields), key=lambda line: line[2])

    def wait_for(self, word: str, count: int = 1) -> None:
        patience = Patience(30)
        while sum(line[0] == word for line in self.lines()) < count:
            assert not patience.is_over, f"no '{word}' in {self.lines()}"
            time.sleep(0.01)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.txt")


@pytest.fixture
def start(tmp_path: Path, log: Log) -> Iterator[Start]:
    """Starts a script in a process of its own. All of these are killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(script: str, *arguments: str, refused: bool = False) -> subprocess.Popen[bytes]:
        script = ("import refusing; refusing.install()\n" if refused else "") + START + script
        command = [sys.executable, "-c", script, str(tmp_path), str(log.path), *arguments]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        running.append(subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": path}))
        return running[-1]

    yield begin
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and its forked children
        process.wait()


def test_measurements_exclude_each_other(start: Start, log: Log) -> None:
    for process in [start(MEASURE, "8") for _ in range(3)]:
        assert process.wait(60) == 0
    words = [word for word, _, _ in log.lines()]
    assert len(words) == 48
    assert words == ["enter", "leave"] * 24
    owners = [pid for _, pid, _ in log.lines()]
    assert owners[::2] == owners[1::2]


def test_trainings_share_the_lock(start: Start, log: Log, tmp_path: Path) -> None:
    start(TRAIN)
    log.wait_for("batch")
    with MachineLock(tmp_path).shared():
        log.wait_for("batch", len(log.lines()) + 10)


@pytest.mark.timing
def test_a_training_pauses_within_a_batch_and_continues(start: Start, log: Log, tmp_path: Path) -> None:
    start(TRAIN)
    start(TRAIN)
    log.wait_for("batch", 10)
    mine = MachineLock(tmp_path)
    began = time.monotonic()
    with mine.exclusive():
        inside = time.monotonic()
        time.sleep(0.3)
        end = time.monotonic()
    batches = [(pid, at) for word, pid, at in log.lines() if word == "batch"]
    assert not [at for _, at in batches if inside < at < end]
    # One batch was running. A few more may pass while this process waits for a processor.
    meanwhile = Counter(pid for pid, at in batches if began < at < inside)
    assert all(count <= 10 for count in meanwhile.values()), meanwhile
    log.wait_for("batch", len(log.lines()) + 10)
    assert len({pid for _, pid, at in log.lines() if at > end}) == 2


@pytest.mark.timing
def test_a_training_gets_its_turn_among_many_measurements(start: Start, log: Log) -> None:
    start(TRAIN)
    log.wait_for("batch")
    measurements = [start(MEASURE, "10") for _ in range(2)]
    for process in measurements:
        assert process.wait(60) == 0
    words = [word for word, _, _ in log.lines() if word != "leave"]
    assert words.count("enter") == 20
    streak = longest = 0
    for word in words:
        streak = streak + 1 if word == "enter" else 0
        longest = max(longest, streak)
    assert longest <= 3  # a running one, one that waited before the training, and one that was just joining


def test_a_killed_holder_releases_the_machine(start: Start, log: Log, tmp_path: Path) -> None:
    holder = start(HOLD)
    log.wait_for("held")
    waiting = start(MEASURE, "1")
    time.sleep(0.3)
    assert "enter" not in [word for word, _, _ in log.lines()]
    holder.send_signal(signal.SIGKILL)
    assert waiting.wait(30) == 0
    with MachineLock(tmp_path).shared():
        pass


def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(start: Start, log: Log, tmp_path: Path) -> None:
    """Workers of a data loader outlive a killed training by seconds."""
    holder = start(HOLD, "fork")
    log.wait_for("held")
    log.wait_for("child")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with MachineLock(tmp_path).exclusive():
        assert time.monotonic() - began < 20  # the child runs for 30 seconds


def test_a_killed_waiting_process_is_forgotten(start: Start, log: Log, tmp_path: Path) -> None:
    mine = MachineLock(tmp_path)
    with mine.shared():
        waiting = start(MEASURE, "1")
        patience = Patience(30)
        while not mine._somebody_waits():
            assert not patience.is_over
            time.sleep(0.01)
        waiting.kill()
        waiting.wait()
        assert not mine._somebody_waits()
        mine.breathe()
    assert not log.lines()


def test_acquiring_twice_is_an_error_and_no_deadlock(tmp_path: Path) -> None:
    one, other = MachineLock(tmp_path), MachineLock(tmp_path)
    with one.shared(), pytest.raises(RuntimeError, match="held here already"), other.exclusive():
        pass
    with other.exclusive():
        pass
    other.close()
    with pytest.raises(RuntimeError, match="closed"), other.shared():
        pass


def test_without_a_lock_breathe_does_nothing(tmp_path: Path) -> None:
    MachineLock(tmp_path).breathe()


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    mine = MachineLock(tmp_path)
    with pytest.raises(ZeroDivisionError), mine.exclusive():
        1 / 0  # noqa: B018
    with mine.shared():
        pass


def test_it_works_where_flock_is_refused(start: Start, log: Log, tmp_path: Path) -> None:
    """With leases, a measurement is alone too, and a training gives way to it."""
    start(TRAIN, refused=True)
    log.wait_for("batch", 3)
    assert start(MEASURE, "3", refused=True).wait(60) == 0
    measured = [at for word, _, at in log.lines() if word in ("enter", "leave")]
    assert len(measured) == 6
    for enter, leave in zip(measured[::2], measured[1::2], strict=True):
        assert not [at for word, _, at in log.lines() if word == "batch" and enter < at < leave]
    log.wait_for("batch", sum(word == "batch" for word, _, _ in log.lines()) + 3)


def test_unusable_lock_files_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("machine", "queue", "aside"):
        machine_files(name, folder=tmp_path)[0].mkdir()
    with caplog.at_level(logging.WARNING, logger="autocompress"):
        mine = MachineLock(tmp_path)
    assert "a latency measured beside a training will be too high" in caplog.text
    with mine.shared():
        mine.breathe()
    with mine.exclusive():
        pass

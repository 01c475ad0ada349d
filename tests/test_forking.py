"""Work in a forked process: its messages arrive, and it ends with its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from autocompress import forking
from autocompress.forking import Claims, Forked, Send
from autocompress.proposals import helping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def test_messages_come_from_another_process_until_it_ends() -> None:
    def work(send: Send) -> None:
        send(os.getpid())
        send("built")

    forked = Forked.started(work)
    number, text = forked.messages(30)
    assert (text, number != os.getpid()) == ("built", True)
    forked.end()
    assert not psutil.pid_exists(number)


def test_a_process_that_fails_or_hangs_sends_nothing_more() -> None:
    assert not list(Forked.started(lambda _: os._exit(1)).messages(30))
    calls: list[int] = []
    forked = Forked.started(lambda _: time.sleep(60))
    assert not list(forked.messages(1.0, lambda: calls.append(1)))
    forked.end()
    assert len(calls) >= 2


def test_messages_that_have_arrived_are_taken_without_waiting() -> None:
    def work(send: Send) -> None:
        for _ in range(3):
            send(bytes(100_000))
        time.sleep(60)

    forked = Forked.started(work)
    found: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(found) < 3 and time.monotonic() < deadline:  # a pipe has room for fewer, so the process waits in between
        found += forked.arrived()
    forked.end()
    assert [len(message) for message in found] == [100_000] * 3


def test_ctrl_c_is_handled_by_the_parent() -> None:
    def interrupted(send: Send) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        send("still here")

    assert list(Forked.started(interrupted).messages(30)) == ["still here"]


def test_each_number_goes_to_one_process() -> None:
    claims = Claims()

    def work(send: Send) -> None:
        for number in claims.taken():
            send(number)

    forked = Forked.started(work)
    claims.fill(1000)
    own = list(claims.taken())
    assert sorted([*own, *forked.messages(30)]) == list(range(1000))


def test_numbers_end_even_if_another_process_keeps_the_pipe_open() -> None:
    claims = Claims()
    bystander = Forked.started(lambda _: time.sleep(60))

    def work(send: Send) -> None:
        send(len(list(claims.taken())))

    forked = Forked.started(work)
    try:
        claims.fill(3)
        (others,) = forked.messages(50)  # a pipe that does not end would deliver nothing
        assert others + len(list(claims.taken())) == 3
    finally:
        forked.end()
        bystander.end()
        claims.close()


def test_it_ends_when_its_parent_is_killed() -> None:
    script = (
        "import time\nfrom autocompress.forking import Forked\n"
        "forked = Forked.started(lambda send: time.sleep(60))\n"
        "print(forked._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(50)  # raises TimeoutExpired if it is still running


def test_no_fork_beside_a_working_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "usable_processors", lambda: 2)
    for name, expected in (("signals", True), ("tqdm_monitor", True), ("worker", False)):
        there = [threading.main_thread(), threading.Thread(name=name)]
        monkeypatch.setattr(threading, "enumerate", lambda own=there: own)
        assert forking.may_fork() == expected
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    assert forking.may_fork()
    monkeypatch.setattr(forking, "usable_processors", lambda: 1)
    assert not forking.may_fork()


def test_a_cell_that_hangs_is_given_up_and_measurements_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Builds:
        def build(self, *_: object) -> list[object]:
            return []

    taken = multiprocessing.get_context("fork").Event()

    def hang(selection: object) -> None:
        taken.set()
        time.sleep(60)

    def measures(breathe: object) -> tuple[list[dict[str, int]], object]:
        del breathe
        return [{}], hang

    monkeypatch.setattr(helping, "MOST_LATE", 0.5)
    helper = helping.Helper.started(Builds(), [], [], measures)  # type: ignore[arg-type]
    try:
        helper.offer(1)
        assert helper.probes([], [], lambda: None) == []
        assert taken.wait(50), "the other process takes this cell"
        calls: list[int] = []
        began = time.monotonic()
        assert helper.cells([{}], lambda selection: 1.0, began, lambda: calls.append(1)) == [None]
        assert time.monotonic() - began < 30
        assert calls
    finally:
        helper.end()

"""Work in a forked process: its result comes back, and it ends with its parent."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from autocompress import forking
from autocompress.forking import Forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def test_a_result_comes_back_from_another_process() -> None:
    number, value = Forked.started(lambda: (os.getpid(), "built")).result(30) or (0, "")
    assert value == "built"
    assert number != os.getpid()
    assert not psutil.pid_exists(number)


def test_a_process_that_fails_or_hangs_gives_none() -> None:
    assert Forked.started(lambda: os._exit(1)).result(30) is None
    calls: list[int] = []
    assert Forked.started(lambda: time.sleep(60)).result(0.3, lambda: calls.append(1)) is None
    assert len(calls) == 3


def test_ctrl_c_is_the_parents_business() -> None:
    def interrupted() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"

    assert Forked.started(interrupted).result(30) == "still here"


def test_it_ends_when_its_parent_is_killed() -> None:
    script = (
        "import time\nfrom autocompress.forking import Forked\n"
        "forked = Forked.started(lambda: time.sleep(60))\n"
        "print(forked._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(10)  # raises TimeoutExpired while it lives


def test_no_fork_beside_a_thread_that_works() -> None:
    assert forking.may_fork() == (len(os.sched_getaffinity(0)) > 1)
    is_over = threading.Event()
    for name, expected in (("signals", forking.may_fork()), ("worker", False)):
        thread = threading.Thread(target=is_over.wait, name=name)
        thread.start()
        assert forking.may_fork() == expected
    is_over.set()

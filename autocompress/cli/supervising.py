"""Keeps a search on a cluster going: its driver is a child process, and is started again.

Ray ends the driver's process when the head of its cluster is lost. So a process that knows nothing
of Ray waits until the head is back, and resumes the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from autocompress.job import AUTO, ClusterConfig

IS_DRIVER = "AUTOCOMPRESS_DRIVER"
"""The environment of the child has it."""
MOST_ENDS = 5
"""Lost drivers in a row, without a new trial in between, after which none is started."""
HEAD_BACK_WITHIN_S = 600.0
"""Seconds to wait for the head of the cluster."""
LOOK_AGAIN_S = 2.0
PR_SET_PDEATHSIG = 1


def is_needed(cluster: ClusterConfig) -> bool:
    """Whether this process is to supervise a driver, and not to be one."""
    return not cluster.is_local and IS_DRIVER not in os.environ


def end_with_parent() -> None:
    """A driver whose supervisor was killed ends as by SIGTERM (on Linux)."""
    if IS_DRIVER in os.environ and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def drive(folder: Path, cluster: ClusterConfig, again: Sequence[str] | None = None) -> int:
    """Runs this command in a child process; resumes the run where the child is lost.

    Args:
        folder: ``results/<name>``.
        cluster: of the job.
        again: arguments of the command that goes on; by default ``resume FOLDER``.

    Returns:
        The exit code of the last child.
    """
    given = sys.argv[1:]
    program = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(given)]]
    command, ends = [*program, *given], 0
    while True:
        before = _trials(folder)
        code = _ran(command)
        if not _was_lost(code, folder):
            return code
        ends = 1 if _trials(folder) > before else ends + 1
        if ends >= MOST_ENDS:
            _say(f"the driver was lost {ends} times in a row; 'autocompress resume {folder}' continues")
            return code
        _say("the driver was lost; the search goes on when the head of the cluster answers")
        if not _answers(cluster):
            _say(f"the head of the cluster does not answer; 'autocompress resume {folder}' continues")
            return code
        command = [*program, *(again or ("resume", str(folder)))]


def _ran(command: Sequence[str]) -> int:
    """Runs the driver, and passes signals on to it."""
    # A process group of its own, so that Ctrl-C reaches it once: through this process.
    child = subprocess.Popen(command, env={**os.environ, IS_DRIVER: "1"}, process_group=0)
    with _passed_on(child):
        return child.wait()


@contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.signal(getattr(signal, name), pass_on) for name in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _was_lost(code: int, folder: Path) -> bool:
    """Whether the driver ended without having had a say.

    It was killed, or Ray ended its process with code 1: its status then says that it still runs.
    """
    from autocompress.results.status import OVER, STOPPED, read_status  # imports pandas

    if code < 0:
        return (folder / "job.yaml").is_file()
    status = read_status(folder) if code == 1 else None
    return status is not None and status.phase not in (OVER, STOPPED)


def _trials(folder: Path) -> int:
    from autocompress.results.status import read_status

    status = read_status(folder)
    return 0 if status is None else status.trials


def _answers(cluster: ClusterConfig) -> bool:
    """Waits until something listens at the head's address."""
    address = os.environ.get("RAY_ADDRESS", "") if cluster.address == AUTO else cluster.address
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + HEAD_BACK_WITHIN_S
    while True:
        time.sleep(LOOK_AGAIN_S)
        if not host:
            return True
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_AGAIN_S).close()
            return True
        if time.monotonic() > deadline:
            return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

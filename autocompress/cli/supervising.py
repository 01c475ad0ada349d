"""Restarts the driver of a search on a cluster after a loss. The driver is a child process.

Ray ends the process of the driver when the head of the cluster is lost. The parent process does not
use Ray: it waits until the head is back, and resumes the run.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from autocompress.errors import ExitCode, UserError
from autocompress.job import AUTO, ClusterConfig, load_job

IS_DRIVER = "AUTOCOMPRESS_DRIVER"
"""The environment variable that marks the child process."""
MOST_ENDS = 5
"""After this number of lost drivers in a row, without a new trial, no more is started."""
HEAD_BACK_WITHIN_S = 600.0
"""Seconds to wait for the head of the cluster."""
LOOK_AGAIN_S = 2.0
TRY_AGAIN_S = 10.0
"""Seconds until a restart of a child that found the head, but not the resources of the job."""
PR_SET_PDEATHSIG = 1


def is_needed(cluster: ClusterConfig) -> bool:
    """Whether this process should supervise a driver instead of being the driver."""
    return not cluster.is_local and IS_DRIVER not in os.environ


def resume_supervised(place: Path) -> None:
    """Supervises the driver that resumes a run on a cluster; returns for any other run.

    Args:
        place: the folder of the run, or its URL.

    Raises:
        SystemExit: when the driver has ended, with its exit code.
        UserError: if the run is on a URL that cannot be used.
    """
    if IS_DRIVER in os.environ:
        return
    from autocompress.searching.runurls import home_of  # takes a second to import

    folder, url = home_of(place)
    if (file := folder / "job.yaml").is_file() and is_needed(cluster := load_job(file).cluster):
        raise SystemExit(drive(folder, cluster, sys.argv[1:], url))


def end_with_parent() -> None:
    """Makes this driver end as after SIGTERM if its supervisor is killed (on Linux)."""
    if IS_DRIVER in os.environ and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def drive(folder: Path, cluster: ClusterConfig, again: Sequence[str] | None = None, url: str | None = None) -> int:
    """Runs this command in a child process, and resumes the run if the child is lost.

    Args:
        folder: ``results/<name>``.
        cluster: the section of the job.
        again: arguments of the command that resumes; by default ``resume FOLDER``.
        url: the URL of the run, if it has one.

    Returns:
        The exit code of the last child; after a signal that it did not survive, 75 or 130.
    """
    with _signals() as signals:
        return _driven(folder, _address_of(cluster), again, signals, url)


def _driven(folder: Path, address: str, again: Sequence[str] | None, signals: _Signals, url: str | None = None) -> int:
    given = sys.argv[1:]
    program = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(given)]]
    command, ends, tries_until = [*program, *given], 0, 0.0
    environment = {**os.environ, IS_DRIVER: "1"} | ({"RAY_ADDRESS": address} if address else {})
    while True:
        before = _trials(folder)
        code = _ran(command, environment, signals)
        if signals.last is not None:
            return _ended_by(signals.last) if code < 0 or _was_lost(code, folder) else code
        if code == ExitCode.WRONG_USE and time.monotonic() < tries_until:
            _say("the cluster is not ready yet; another attempt to resume the search follows")
            time.sleep(TRY_AGAIN_S)
            continue
        if not _was_lost(code, folder):
            return code
        ends = 1 if _trials(folder) > before else ends + 1
        if ends >= MOST_ENDS:
            _say(f"the driver was lost {ends} times in a row; 'autocompress resume {url or folder}' continues")
            return code
        _say("the driver was lost; the search continues when the head of the cluster answers")
        tries_until = time.monotonic() + HEAD_BACK_WITHIN_S
        if not _answers(address, tries_until, signals):
            _say(f"the head of the cluster does not answer; 'autocompress resume {url or folder}' continues")
            return code if signals.last is None else _ended_by(signals.last)
        command = [*program, *(again or ("resume", str(folder)))]


@dataclass
class _Signals:
    """Passes signals to the child process. After a signal, no child is started."""

    child: subprocess.Popen[bytes] | None = None
    last: int | None = None

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """Handles a signal: stores its number and passes it on to the driver."""
        del frame
        self.last = number
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(number)


@contextmanager
def _signals() -> Iterator[_Signals]:
    found = _Signals()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.signal(getattr(signal, name), found.take) for name in names}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ran(command: Sequence[str], environment: Mapping[str, str], signals: _Signals) -> int:
    """Runs the driver, and passes signals on to it; returns -1 if a signal came before."""
    if signals.last is not None:
        return -1
    # A process group of its own, so that Ctrl-C reaches it once: through this process.
    child = subprocess.Popen(command, env=environment, process_group=0)
    signals.child = child
    try:
        if signals.last is not None:  # it came while the child was made
            signals.take(signals.last)
        return child.wait()
    finally:
        signals.child = None


def _ended_by(number: int) -> int:
    return ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED


def _was_lost(code: int, folder: Path) -> bool:
    """Whether the driver ended before it could save its state.

    Such a driver was killed, or Ray ended its process with code 1. Its status file then still says
    "running".
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


def _address_of(cluster: ClusterConfig) -> str:
    """The address of the cluster's head, as the first child will find it.

    It is resolved once, because ``auto`` must mean the same cluster after a loss, when Ray knows of
    none. It is empty if it cannot be resolved; the child then reports the error.
    """
    if cluster.address != AUTO:
        return cluster.address
    from autocompress.cluster.attaching import address_of  # imports Ray

    try:
        return address_of(cluster)
    except UserError:
        return ""


def _answers(address: str, until: float, signals: _Signals) -> bool:
    """Waits until something listens at the head's address; False after ``until`` or a signal."""
    host, _, port = address.rpartition(":")
    while True:
        time.sleep(LOOK_AGAIN_S)
        if signals.last is not None:
            return False
        if not host:
            return True
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_AGAIN_S).close()
            return True
        if time.monotonic() > until:
            return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

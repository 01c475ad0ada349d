"""A Ray cluster on this machine for one search.

Its requirements are checked first, and all its files are removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from autocompress.cluster.signals import handlers_kept
from autocompress.compat import ray as compat
from autocompress.errors import Terminated, UserError

log = logging.getLogger("autocompress.search")

PREFIX = "ac-ray-"
"""Prefix of scratch folders; ``ls /tmp/ac-ray-*`` shows those of killed searches."""
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Maximum length of the path of a Unix socket in bytes."""
BELOW_SCRATCH = "/session_2026-11-29_16-43-07_706706_4194304/sockets/plasma_store"
"""Longest path of a socket of Ray below its folder, with time and process id."""
OBJECT_STORE_BYTES = 100 * 2**20
LOG_BYTES = 50 * 2**20
"""Bytes for Ray's logs and sockets."""
SHARED_MEMORY = Path("/dev/shm")
LOOPBACK = "127.0.0.1"
GONE_WITHIN_S = 1.0
"""Seconds to wait for killed processes."""

is_ending = False
"""Whether this process kills the processes of Ray, because ending Ray in order takes seconds.

``kill_all`` is called as soon as the search has saved its state.
"""
ABANDONED_AFTER_S = 60.0
"""Age in seconds below which a scratch folder may belong to a cluster that is starting."""

active: set[Path] = set()
"""Scratch folders of the clusters of this process."""


@dataclass(frozen=True)
class Place:
    """The folder for files of Ray.

    Attributes:
        base: the parent of the scratch folder.
        store_in_scratch: the object store is in the scratch folder, because shared memory is
            missing or too small.
    """

    base: Path
    store_in_scratch: bool


def check() -> Place:
    """Checks the requirements of Ray on the machine, in milliseconds.

    Ray's sockets need a folder with a short path, and its processes use the loopback interface. If
    ``TMPDIR`` is too long, missing or read-only, ``XDG_RUNTIME_DIR``, ``/tmp``, ``/var/tmp`` and
    ``/dev/shm`` are tried.

    Raises:
        UserError: if a requirement is not met.
    """
    _check_loopback()
    store_in_scratch = sys.platform == "linux" and not _has_room(SHARED_MEMORY, OBJECT_STORE_BYTES)
    needed = LOG_BYTES + (OBJECT_STORE_BYTES if store_in_scratch else 0)
    faults = []
    for base in _candidates():
        if (fault := _fault_of(base, needed)) is None:
            return Place(base, store_in_scratch)
        faults.append(f"{base}: {fault}")
    raise UserError(
        f"Ray finds no folder for its sockets ({'; '.join(faults)})",
        "set TMPDIR to a folder with a short path that can be written",
    )


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """A cluster with one CPU for each worker and the GPUs of this machine.

    Other machines cannot connect to it.

    Raises:
        UserError: if it cannot be started.
    """
    place = check()
    _sweep(place.base)
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place.base))  # only this user may enter it
    active.add(scratch)
    try:
        with _environment(scratch), handlers_kept() as put_back:
            try:
                _start(scratch, workers, place)
                put_back()
                yield
            finally:
                if not is_ending:
                    _end(scratch)
    finally:
        if not is_ending:
            shutil.rmtree(scratch, ignore_errors=True)
            active.discard(scratch)


def processes(scratch: Path | None = None) -> list[psutil.Process]:
    """The processes of a cluster that this process started, with all their children.

    Args:
        scratch: scratch folder of the cluster; None for all clusters of this process.
    """
    mark = os.sep + PREFIX if scratch is None else str(scratch)
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(mark in word for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def kill(victims: list[psutil.Process], seconds: float = GONE_WITHIN_S) -> None:
    """Kills processes, and waits at most ``seconds`` until they have ended."""
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(victims, timeout=seconds)


def kill_all() -> None:
    """Kills all clusters of this process and removes their files.

    Ray may then end this process, so save everything first.
    """
    kill(processes(), seconds=0.1)
    for scratch in list(active):
        shutil.rmtree(scratch, ignore_errors=True)


# --- starting and ending --------------------------------------------------------------------------


def _start(scratch: Path, workers: int, place: Place) -> None:
    options: dict[str, Any] = {
        "_temp_dir": str(scratch),
        "_node_ip_address": LOOPBACK,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    if place.store_in_scratch:
        options["_plasma_directory"] = str(scratch)
    import ray  # here, because importing it takes a second, and a check does not need it

    try:
        ray.init(
            address="local",  # else RAY_ADDRESS would name another cluster
            num_cpus=workers,
            num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except SystemExit as error:  # from Ray's own handler of SIGTERM
        raise Terminated from error
    except Exception as error:
        log.exception("Ray cannot be started")
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"Ray cannot be started on this machine: {text}", "log.txt has the whole message") from error


def _end(scratch: Path) -> None:
    """Ends Ray; workers are killed first, because their trials are no longer needed."""
    import ray

    running = processes(scratch)
    kill([process for process in running if _is_worker(process)], seconds=0.0)
    ray.shutdown()
    kill([process for process in {*running, *processes(scratch)} if process.is_running()])


def _is_worker(process: psutil.Process) -> bool:
    """Whether a process is a worker, by its title.

    Agents have such titles too, but must not be killed, because Ray then ends the driver.
    """
    try:
        name = str(process.name())
    except psutil.Error:
        return False
    return name.startswith("ray::") and "Agent" not in name


@contextmanager
def _environment(scratch: Path) -> Iterator[None]:
    """Settings of Ray for the lifetime of a cluster.

    The authentication token of Ray's processes is in the scratch folder. Ray's default is the home
    folder, which is often missing in containers. Clusters of several machines are disabled (Ray's
    default on macOS and Windows), because Ray would listen on all interfaces.
    """
    token = scratch / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    wanted = {"RAY_AUTH_TOKEN_PATH": str(token), compat.cluster_variable(): "0"}
    unwanted = ("RAY_AUTH_TOKEN", "RAY_TMPDIR")
    names = ("RAY_AUTH_MODE", *wanted, *unwanted)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(wanted)
    for name in unwanted:
        os.environ.pop(name, None)
    several = compat.allow_clusters(False)
    compat.read_authentication()
    try:
        yield
    finally:
        compat.allow_clusters(several)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        compat.read_authentication()


# --- what the machine has -------------------------------------------------------------------------


def _candidates() -> list[Path]:
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")]
    usual = ["/tmp", "/var/tmp", str(SHARED_MEMORY)] if sys.platform != "win32" else [tempfile.gettempdir()]
    return list(dict.fromkeys(Path(name) for name in (*named, *usual) if name and Path(name).is_absolute()))


def _fault_of(base: Path, needed: int) -> str | None:
    """The reason why Ray's scratch folder cannot be in ``base``, or None.

    A folder and a socket are made there for the check.
    """
    if not base.is_dir():
        return "no such folder"
    scratch = f"{base}/{PREFIX}12345678"
    if sys.platform != "win32" and len(os.fsencode(scratch + BELOW_SCRATCH)) > LONGEST_SOCKET:
        return "its path is too long"
    if not _has_room(base, needed):
        return f"less than {needed // 2**20} MiB free"
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base) as folder:
            if sys.platform != "win32":
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.bind(f"{folder}/socket")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _sweep(base: Path) -> None:
    """Removes scratch folders of killed clusters of this user in ``base``."""
    for scratch in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if hasattr(os, "getuid") and scratch.stat().st_uid != os.getuid():
                continue
            sockets = list(scratch.glob("session_2*/sockets/raylet"))
            old = time.time() - scratch.stat().st_mtime > ABANDONED_AFTER_S
            if old and not any(_is_listening(path) for path in sockets):
                shutil.rmtree(scratch, ignore_errors=True)


def _is_listening(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(path))
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # on other errors, it may be listening
    return True


def _has_room(folder: Path, needed: int) -> bool:
    try:
        return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= needed
    except OSError:
        return False


def _check_loopback() -> None:
    try:
        with socket.socket() as server:
            server.bind((LOOPBACK, 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=5.0).close()
    except OSError as error:
        raise UserError(
            f"Ray's processes cannot talk to each other over {LOOPBACK}: {error.strerror or error}",
            "bring the loopback interface up (ip link set lo up)",
        ) from None

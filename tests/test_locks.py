"""FileLock by the kernel and by leases, the machine's lock folder, and imports without fcntl."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from autocompress.devices.lock import MachineLock
from autocompress.errors import UserError
from autocompress.locks import FileLock, machine_files, place

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock and no signals")

TESTS = Path(__file__).parent
HOLD = """
import os, sys, time
if sys.argv[3] == "leases":
    import refusing; refusing.install()
from pathlib import Path
from autocompress.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire(sys.argv[2])
if "fork" in sys.argv and os.fork() == 0:
    os.write(1, b"child\\n"); time.sleep(60); os._exit(0)
os.write(1, b"held\\n"); sys.stdin.read()
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}

Hold = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=["kernel", "leases"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of locks in this test, in this process and in those that it starts."""
    if request.param == "leases":
        refuse(monkeypatch)
    return request.param


def refuse(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSYS) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def hold(backend: str) -> Iterator[Hold]:
    """Starts a process that holds a lock until its input ends.

    All of these are killed at the end.
    """
    running: list[subprocess.Popen[str]] = []

    def begin(path: Path, kind: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(path), kind, backend, *more]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, env=ENVIRONMENT, start_new_session=True, **pipes)
        running.append(process)
        assert process.stdout is not None
        assert sorted(process.stdout.readline() for _ in range(2 if "fork" in more else 1))[-1] == "held\n"
        return process

    yield begin
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_an_exclusive_lock_is_alone_and_shared_locks_are_not(tmp_path: Path, hold: Hold) -> None:
    lock = FileLock(tmp_path / "lock")
    sharing = hold(lock.path, "shared")
    assert not lock.acquire("exclusive", seconds=0)
    assert lock.acquire("shared", seconds=0)
    lock.release()
    sharing.communicate("")
    assert lock.acquire("exclusive", seconds=5)
    lock.release()
    alone = hold(lock.path, "exclusive")
    assert not lock.acquire("shared", seconds=0)
    assert not lock.acquire("exclusive", seconds=0.2)
    assert lock.worth_waiting() == 0, "its holder runs on this machine"
    alone.communicate("")
    assert lock.acquire("shared", seconds=5)


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_killed_holder_releases_the_lock(tmp_path: Path, hold: Hold, kind: str) -> None:
    lock = FileLock(tmp_path / "lock")
    holder = hold(lock.path, kind)
    assert not lock.acquire("exclusive", seconds=0)
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    assert lock.acquire("exclusive", seconds=20)
    assert time.monotonic() - began < 5, "a dead process of this machine is recognised"


def test_a_child_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path, hold: Hold) -> None:
    lock = FileLock(tmp_path / "lock")
    holder = hold(lock.path, "exclusive", "fork")
    holder.kill()
    holder.wait()
    assert lock.acquire("exclusive", seconds=5)


def test_a_waiting_process_is_called_and_then_gets_the_lock(tmp_path: Path, hold: Hold) -> None:
    lock, calls = FileLock(tmp_path / "lock"), []
    holder = hold(lock.path, "exclusive")

    def pause() -> None:
        calls.append(1)
        if len(calls) == 3:
            holder.communicate("")

    assert lock.acquire(pause=pause)
    assert len(calls) >= 3


def test_two_objects_of_one_process_exclude_each_other(tmp_path: Path, backend: str) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with one.held():
        assert not other.acquire("shared", seconds=0)
        with pytest.raises(RuntimeError, match="held by this object already"):
            one.acquire()
    assert other.acquire("shared", seconds=0)
    assert one.acquire("shared", seconds=0)


def test_a_lock_works_after_its_file_was_removed(tmp_path: Path, hold: Hold, backend: str) -> None:
    """Otherwise, a process that waits for a removed file would get a lock of its own."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    assert not second.acquire(seconds=0)
    first.release(remove=True)
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert second.acquire(seconds=0)
    assert not first.acquire(seconds=0)
    second.release(remove=True)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_each_error_of_a_refusal_is_recognised_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    refuse(monkeypatch, number)
    with caplog.at_level(logging.WARNING, logger="autocompress"):
        for name in ("one", "two"):
            with FileLock(tmp_path / name).held():
                assert not FileLock(tmp_path / name).acquire("shared", seconds=0)
    assert caplog.text.count("leases are used") == 1
    assert os.strerror(number) in caplog.text


def test_a_lock_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "lock").acquire()


# --- the machine's locks, among users -------------------------------------------------------------

OTHER_USER = """
import os, sys
from autocompress.devices.lock import MachineLock
os.setgroups([]); os.setgid(65534); os.setuid(65534); os.umask(0o077)
with MachineLock().shared():
    print("shared", flush=True); sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as other users")
@pytest.mark.parametrize("first", ["root", "nobody"])
def test_users_of_a_machine_share_one_lock(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all:  # only root can enter tmp_path
        Path(open_to_all).chmod(0o755)
        folder = Path(open_to_all) / "locks"
        monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(folder))
        old = os.umask(0o077)
        try:
            machine_files("machine")  # this makes the folder
            if first == "root":
                MachineLock()
            command = [sys.executable, "-c", OTHER_USER]
            environment = {**ENVIRONMENT, "AUTOCOMPRESS_LOCKS": str(folder), "HOME": "/nonexistent"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            other = subprocess.Popen(command, text=True, env=environment, cwd="/", **pipes)
            assert other.stdout is not None
            assert other.stdout.readline() == "shared\n"
            assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666}
            with MachineLock().shared():
                pass
            [machine] = machine_files("machine")
            assert not FileLock(machine).acquire("exclusive", seconds=0)
            other.communicate("")
            assert FileLock(machine).acquire("exclusive", seconds=5)
        finally:
            os.umask(old)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as other users")
def test_a_read_only_file_can_be_locked(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    lock.path.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        other = FileLock(lock.path)
        assert not other.acquire("shared", seconds=0)
        lock.release()
        assert other.acquire("exclusive", seconds=0)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("trap", ["link", "pipe", "folder"])
def test_files_planted_by_other_users_are_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trap: str
) -> None:
    [machine] = machine_files("machine", folder=tmp_path)
    victim = tmp_path / "victim"
    if trap == "link":
        machine.symlink_to(victim)
    elif trap == "pipe":
        os.mkfifo(machine)
    else:
        machine.mkdir()
    with caplog.at_level(logging.WARNING, logger="autocompress"):
        lock = MachineLock(tmp_path)
    assert "cannot be locked" in caplog.text
    with lock.shared():
        lock.breathe()
    with lock.exclusive():
        pass
    assert not victim.exists()


def test_the_name_of_the_locks_depends_on_the_machine_and_not_on_the_host_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one-boot\n")
    monkeypatch.setattr(place, "BOOT_ID", boot)
    assert machine_files("machine", folder=tmp_path) == [tmp_path / "autocompress-one-boot.machine"]
    monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path / "deep" / "locks"))
    [path] = machine_files("machine")
    assert path.parent == tmp_path / "deep" / "locks"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o1777, "any user may add locks, none removes another's"


def test_all_users_choose_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write to folders in which others may not. Such a folder is not used."""
    monkeypatch.delenv("AUTOCOMPRESS_LOCKS")
    mine, everybodys = tmp_path / "mine", tmp_path / "everybodys"
    for folder, mode in ((mine, 0o755), (everybodys, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.setattr(place, "PLACES", (tmp_path / "missing", mine, everybodys))
    [path] = machine_files("machine")
    assert path.parent == everybodys


def test_a_folder_of_locks_that_cannot_be_made_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path / "file" / "locks"))
    with pytest.raises(UserError, match=r"the folder of locks .* cannot be made") as error:
        machine_files("machine")
    assert error.value.hint == "set AUTOCOMPRESS_LOCKS"


# --- everywhere -----------------------------------------------------------------------------------

WITHOUT_FCNTL = """
import importlib, importlib.abc, pkgutil, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller is not None and caller.f_globals["__name__"].startswith("importlib"):
            caller = caller.f_back
        if name == "fcntl" and caller.f_globals["__name__"].startswith("autocompress"):
            raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")

import ray, optuna, torch  # what others do with it is theirs
sys.modules.pop("fcntl")
sys.meta_path.insert(0, Hidden())
import autocompress
found = [info.name for info in pkgutil.walk_packages(autocompress.__path__, "autocompress.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
from pathlib import Path
from autocompress.locks import FileLock, kernel
assert kernel.fcntl is None
with FileLock(Path(sys.argv[1])).held():
    assert not FileLock(Path(sys.argv[1])).acquire("shared", seconds=0)
print(len(found))
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_fcntl(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100

"""``ssh:HOST`` with a real sshd on the loopback interface, and errors of hosts."""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import refusing
import timm
from patience import Patience
from torch import nn

from autocompress.contract import Deployable, manager
from autocompress.devices import Ssh, layer_times, measure, remote_timing, ssh
from autocompress.devices.remote_timing import needs_exact
from autocompress.errors import TrialFailed, UserError
from autocompress.export import export
from autocompress.job import DeviceConfig, load_job
from autocompress.opened.keys import measured_with
from autocompress.opened.outline import outline
from shared.two_nodes import free_port

SIZE = (3, 32, 32)
SSHD = shutil.which("sshd", path=os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ.get("PATH", "")]))


@dataclass(frozen=True)
class Board:
    """A host on the loopback interface."""

    folder: Path
    port: int

    def options(self, **changed: Any) -> dict[str, Any]:
        return {"config": str(self.folder / "config"), "python": str(self.folder / "python"), **changed}

    def config(self, **changed: Any) -> DeviceConfig:
        return DeviceConfig(name="ssh:board", options=self.options(**changed))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """An sshd, run by this user."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server here: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "tmp").mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec env TMPDIR={folder / "tmp"} {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    (folder / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder / 'user'}\n"
        f" IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {folder / 'known'}\n"
        " GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n"
    )
    if os.geteuid() == 0:
        with suppress(OSError):
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root needs it
    log = (folder / "log").open("wb")
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    found = Board(folder, port)
    try:
        patience = Patience(60)
        while Ssh("board").check(found.config()):
            if server.poll() is not None or patience.is_over:
                pytest.skip(f"sshd does not run here: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.2)
        yield found
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Deployable]:
    folder = tmp_path_factory.mktemp("files")
    for name in ("test_resnet", "test_efficientnet"):
        export(timm.create_model(name, num_classes=10).eval(), folder / f"{name}.onnx", SIZE)
    return [Deployable(folder / f"{name}.onnx", SIZE) for name in ("test_resnet", "test_efficientnet")]


def left_behind(board: Board) -> set[str]:
    """Folders for sent files. The temporary folder of the host is of this process alone."""
    return {path.name for path in (board.folder / "tmp").glob("autocompress-*") if path.is_dir()}


def test_both_files_are_timed_on_the_host_and_removed(board: Board, files: list[Deployable]) -> None:
    found = measure(Ssh("board"), *files, board.config(), seconds=0.6)
    assert found.latency_ms > 0
    assert found.ratio_low <= found.latency_ratio <= found.ratio_high
    assert found.environment["host"] == "board"
    assert found.environment["runtime"].startswith("onnxruntime ")
    assert found.environment["clock"] == "processor time of the thread"
    assert list((board.folder / "tmp").iterdir()), "the lock of the host is there"
    assert not left_behind(board)


def test_times_of_layers_on_the_host(board: Board, files: list[Deployable]) -> None:
    model = timm.create_model("test_resnet")
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    times = layer_times(Ssh("board"), files[:1], layers, board.config())
    assert times is not None
    assert set(times[0].layers) == set(layers)
    assert times[0].total > 0


def test_keys_of_measurements_contain_the_host(board: Board) -> None:
    told = measured_with(Ssh("board"), board.config())
    assert {"host", "processor", "architecture", "runtime"} <= set(told)


def test_a_file_that_the_host_refuses_is_named_and_removed(board: Board, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    deployable = Deployable(broken, SIZE)
    with pytest.raises(TrialFailed, match=r"board: ONNX Runtime \S+ cannot load the file"):
        measure(Ssh("board"), deployable, deployable, board.config(), seconds=0.1)
    assert not left_behind(board)


def faults(board: Board, **options: Any) -> str:
    reasons = Ssh("board").check(board.config(**options))
    assert len(reasons) == 1
    assert "\n" not in reasons[0]
    return reasons[0]


def test_a_wrong_key_an_unknown_host_key_and_a_closed_port_are_named(board: Board, tmp_path: Path) -> None:
    text = (board.folder / "config").read_text()
    other = tmp_path / "config"
    other.write_text(text.replace(str(board.folder / "user"), str(board.folder / "stranger")))
    assert "refuses the key" in faults(board, config=str(other))
    other = tmp_path / "unknown"
    other.write_text(text.replace(str(board.folder / "known"), "/dev/null"))
    assert "is not known or has changed" in faults(board, config=str(other))
    assert "board does not answer" in faults(board, port=free_port())


def test_missing_programs_of_a_host_are_named(board: Board, tmp_path: Path) -> None:
    assert "has no '/no/such/python'" in faults(board, python="/no/such/python")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    reason = faults(board, python=str(bare))
    assert "board lacks" in reason
    assert "pip install numpy onnxruntime" in reason
    many = DeviceConfig(name="ssh:board", threads=10_000, options=board.options())
    assert "10000 threads are asked for" in Ssh("board").check(many)[0]


def test_a_host_that_does_not_respond_is_given_up(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(ssh, "LOADER", "import time; time.sleep(60)")
    with pytest.raises(TrialFailed, match="board did not answer within"):
        ssh.ask("board", ssh.Options(config=board.folder / "config", python=sys.executable), {"do": "facts"}, [], 0.5)


def test_a_job_with_a_host_that_does_not_answer_is_refused_before_anything_runs(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    config = tmp_path / "config"
    config.write_text("Host board\n HostName 127.0.0.1\n Port 1\n")
    device = {"name": "ssh:board", "options": {"config": str(config)}}
    with pytest.raises(UserError, match="board does not answer"):
        outline(load_job(model="test_resnet", data="digits", device=device, methods=["quantize"]), manager())


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "a;b", "", "a@b@c", "$(x)", "a'b"])
def test_invalid_hosts_are_refused(host: str) -> None:
    with pytest.raises(UserError, match="is not the name of a host"):
        manager().device(f"ssh:{host}")


@pytest.mark.parametrize("python", ["python3; touch x", "python3 -c", "a'b", ""])
def test_an_invalid_python_is_refused(python: str) -> None:
    with pytest.raises(ValueError, match="python"):
        ssh.Options(python=python)


def test_a_board_whose_folder_refuses_locks_still_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing.flock)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with remote_timing.alone():
        pass
    with pytest.raises(OSError, match="of the measurement"), remote_timing.alone():
        raise OSError("of the measurement")


def test_the_lock_of_a_board_is_one_for_all_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with remote_timing.alone():
        pass
    lock = tmp_path / remote_timing.LOCK
    lock.chmod(0o444)
    real = open

    def refused(path: str, mode: str = "r", **options: Any) -> Any:  # root may write all files
        if mode == "a":
            raise PermissionError(errno.EACCES, "of another user")
        return real(path, mode, **options)

    monkeypatch.setattr(remote_timing, "open", refused, raising=False)
    with remote_timing.alone(), real(lock) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_command_contains_nothing_of_the_models() -> None:
    told = ssh.command("me@board", ssh.Options(port=2222, identity=Path("key")))
    assert told[0] == "ssh"
    assert told[-3:] == ["--", "me@board", f"python3 -u -c '{ssh.LOADER}'"]
    assert told[told.index("-p") : told.index("-p") + 2] == ["-p", "2222"]
    assert manager().device("ssh:me@[::1]").name == "ssh:me@[::1]"
    assert "name the machine" in Ssh().check(DeviceConfig())[0]


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [("x86_64", ["avx2"], True), ("x86_64", ["avx_vnni"], False), ("aarch64", ["asimd"], False), ("AMD64", [], True)],
)
def test_boards_with_integers_that_overflow(architecture: str, flags: list[str], expected: bool) -> None:
    assert needs_exact({"architecture": architecture, "flags": flags}) is expected

"""The wheel: built, installed without dependencies, and run where the source tree cannot be seen."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel installed with --no-deps into an environment that borrows this one's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    # The dependencies come in behind the environment's own packages; the editable install's .pth file does not.
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    linked = folder / "dependencies"
    linked.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "autocompress" not in package.name and package.suffix != ".pth":
            (linked / package.name).symlink_to(package)
    (Path(purelib) / "dependencies.pth").write_text(f"{linked}\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return folder / "venv" / "bin" / "autocompress"


def run(command: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_command_lists_the_plugins(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, "plugins", cwd=tmp_path)
    for name in ("ghost", "quantize", "onnxruntime-cpu", "cost-model:bit-fusion", "digits"):
        assert name in listed


def test_a_preset_is_found_and_dry_run(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: test_resnet\ndata: digits\nspace: joint\nbaseline: {epochs: 1}\nconstraints: {latency: 2x}\n"
    )
    printed = run(installed, "search", str(job), "--dry-run", cwd=tmp_path)
    assert "latency" in printed
    assert not (tmp_path / "results").exists(), "a dry run leaves nothing behind"

"""The wheel has all files of the packages, and works without the source tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with contextlib.chdir(ROOT):
        return folder / build_wheel(str(folder))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder of a wheel that was installed with --no-deps."""
    target = wheel.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", target, wheel], check=True)
    return target


def run(installed: Path, *arguments: str, cwd: Path) -> str:
    """The output of the installed command.

    ``-S`` excludes the .pth files of this environment, and with them the editable install of the
    source tree.
    """
    search = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [sys.executable, "-S", installed / "bin" / "autocompress", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_all_files_of_the_packages_and_no_others(wheel: Path) -> None:
    moved = {"autocompress": "autocompress", "plugins": "", "search_spaces": "autocompress/search_spaces"}
    wanted = {
        (Path(target) / file.relative_to(ROOT / folder)).as_posix()
        for folder, target in moved.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


@pytest.mark.slow
def test_the_installed_command_lists_the_plugins(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, "plugins", cwd=tmp_path)
    for name in ("ghost", "quantize", "onnxruntime-cpu", "cost-model:bit-fusion", "digits"):
        assert name in listed


@pytest.mark.slow
def test_a_preset_is_found_and_dry_run(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: test_resnet\nmodel_args: {layers: [1, 1, 0, 0], channels: [16, 24, 24, 24]}\n"
        "data: digits\nspace: joint\nmethods: [quantize, slb]\n"
        "device: cost-model:bitops\nbaseline: {epochs: 1}\nconstraints: {latency: 2x}\n"
    )
    printed = run(installed, "search", str(job), "--dry-run", cwd=tmp_path)
    assert "latency" in printed
    assert not (tmp_path / "results").exists(), "a dry run leaves nothing behind"

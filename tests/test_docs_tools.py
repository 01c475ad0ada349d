"""The commands of docs/tools.md run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_here import Commands
from test_delivery import write_pictures

PAGE = (Path(__file__).parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:autocompress|python) .+)$", PAGE, flags=re.MULTILINE)


@pytest.fixture
def scratch(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page takes to be there."""
    run = tmp_path / "results" / "demo"
    shutil.copytree(small_run, run)
    shutil.copytree(small_run, tmp_path / "results" / "other")
    for trial, name in ((0, "float"), (1, "int8")):
        shutil.copyfile(run / "artifacts" / str(trial) / "model.onnx", tmp_path / f"{name}.onnx")
    write_pictures(run, tmp_path / "pictures" / "val")
    shutil.copyfile(next((tmp_path / "pictures").rglob("*.png")), tmp_path / "picture.png")
    (budget,) = re.findall(r"```yaml\n# budget.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "budget.yaml").write_text(budget + "seconds: 0.1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(words: list[str]) -> list[str]:
    """The command with shorter measurements."""
    return [*words, "--seconds", "0.1"] if words[0] == "measure" and "--seconds" not in words else words


@pytest.mark.slow
@pytest.mark.usefixtures("scratch")
def test_every_command_of_the_page_runs(commands: Commands) -> None:
    assert len(COMMANDS) >= 6
    for line in COMMANDS:
        program, *words = shlex.split(line, comments=True)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True, timeout=120)
        else:
            code = commands.run(*quick(words)).code
            assert code == 0 or (words[0] == "check" and code == 3), line  # 3: noise

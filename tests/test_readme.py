"""README: its job file is a job, its plugin is a plugin that keeps the contract, and both stay short."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from autocompress.contract import Manager
from autocompress.job import load_job
from autocompress.testing import check_method

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)


def block(language: str, first_line: str) -> str:
    (found,) = [code for kind, code in BLOCKS if kind == language and code.startswith(first_line)]
    return found


def test_it_shows_the_two_commands() -> None:
    assert "make demo" in TEXT
    assert "make test" in TEXT


def test_the_job_file_is_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(block("yaml", "# job.yaml"))
    job = load_job("job.yaml")
    assert set(yaml.safe_load(Path("job.yaml").read_text())) <= set(type(job).model_fields)


def test_the_plugin_keeps_the_contract() -> None:
    code = block("python", "# lowrank.py")
    assert len([line for line in code.splitlines() if line.strip()]) <= 42
    plugin = ModuleType("lowrank")
    exec(compile(code, "README.md", "exec"), plugin.__dict__)
    manager = Manager(entry_points=False)
    manager.register(plugin)
    check_method(manager.method("lowrank"))

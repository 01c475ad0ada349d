"""Every command and snippet of the documents runs here or in another test, or says why not."""

from __future__ import annotations

import ast
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cli_here import Commands
from doc_pages import ROOT, Block, blocks
from patience import patient
from test_delivery import write_pictures

from autocompress.checking.limits import read_limits
from autocompress.cli.app import app
from autocompress.job import load_job
from autocompress.report import write_report

PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
ALL = [block for page in PAGES for block in blocks(page)]
RUN = [f"docs/{name}.md" for name in ("index", "report", "tools", "ci", "measuring", "faq")]
"""Pages whose commands run here."""


def line(block: Block) -> str:
    return f"{block.page}: {block.text.splitlines()[0]}"


def test_every_block_is_run_or_says_why_not() -> None:
    silent = [block for block in ALL if block.kind == "commands" and block.note is None and block.page not in RUN]
    assert [line(block) for block in silent] == []


def test_the_named_tests_exist() -> None:
    named = {note[1] for block in ALL if (note := block.note) is not None and note[0] == "run by"}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def command_lines() -> list[str]:
    lines = {text for block in ALL for text in block.commands}
    return sorted(text for text in lines if text.split()[0] == "autocompress")


@pytest.mark.parametrize("text", command_lines())
def test_shown_flags_exist(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(text.partition(" > ")[0], comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    for word in words:  # files that the command reads
        if word.endswith((".yaml", ".py", ".onnx")):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).touch()
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "yaml"], ids=line)
def test_yaml_is_a_job_or_a_budget(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(block.text)
    if "limits" in values:
        Path("budget.yaml").write_text(block.text)
        assert read_limits("budget.yaml").limits
        return
    if "checkpoint" in values:
        Path(values["checkpoint"]).touch()
    own = {} if "pretrained" in values or "checkpoint" in values else {"pretrained": True}
    Path("job.yaml").write_text(yaml.safe_dump({"model": "resnet18", "data": "digits"} | own | values))
    job = load_job("job.yaml")
    assert set(values) <= set(type(job).model_fields)


@pytest.fixture
def scratch(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages assume."""
    run = tmp_path / "results" / "demo"
    shutil.copytree(small_run, run)
    write_report(run)
    shutil.copytree(run, tmp_path / "results" / "other")
    for trial, name in ((0, "float"), (1, "int8")):
        shutil.copyfile(run / "artifacts" / str(trial) / "model.onnx", tmp_path / f"{name}.onnx")
    shutil.copytree(ROOT / "results" / "search", tmp_path / "results" / "search")
    write_pictures(run, tmp_path / "pictures" / "val")
    shutil.copyfile(next((tmp_path / "pictures").rglob("*.png")), tmp_path / "picture.png")
    for block in ALL:
        first = block.text.partition("\n")[0]
        if block.kind == "yaml" and block.page in RUN and first.startswith("# "):
            (tmp_path / first[2:]).write_text(block.text + "\nseconds: 0.1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(words: list[str]) -> list[str]:
    """The command with shorter measurements."""
    return [*words, "--seconds", "0.1"] if words[0] == "measure" else words  # of repeated options, the last one counts


@pytest.mark.slow
@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("page", RUN)
def test_every_command_of_a_page_runs(page: str, commands: Commands) -> None:
    shown = [text for block in blocks(page) if block.note is None for text in block.commands]
    assert shown
    for text in shown:
        program, *words = shlex.split(text, comments=True)
        if program == "autocompress":
            code = commands.run(*quick(words)).code
            assert code == 0 or (words[0] == "check" and code == 3), text  # 3: noise
        else:
            subprocess.run(
                [sys.executable if program == "python" else program, *words], check=True, timeout=patient(120)
            )


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "python"], ids=line)
def test_python_runs(block: Block) -> None:
    if block.note is None:
        exec(compile(block.text, block.page, "exec"), {"__name__": "shown"})
    else:
        ast.parse(block.text)


@pytest.mark.slow
def test_the_example_of_a_new_network_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown = [block for block in ALL if block.note and block.note[1] == "tests/test_docs_snippets.py"]
    (tmp_path / "mine.py").write_text(code.text)
    quickly = ["--methods", "magnitude,quantize", "--device", "cost-model:bitops", "--dry-run"]
    words = shlex.split(shown.text)[1:]
    printed = commands.run(*words, *quickly)
    assert printed.code == 0, printed.err

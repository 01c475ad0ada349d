"""Runs in notebooks: their HTML, and the notebooks of docs/examples, whose cells run here."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from example_run import JOB, write_run
from PIL import Image

import autocompress.searching.run  # noqa: F401 - loaded, so that conftest.py shortens its measurements
from autocompress import SearchResult, read

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FIRST = EXAMPLES / "first_search.ipynb"
NOTEBOOKS = sorted(set(EXAMPLES.glob("*.ipynb")) - {FIRST})
"""The notebooks that read a run."""


def cells(notebook: Path) -> list[str]:
    told = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in told["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell like a notebook, and returns the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_runs(notebook: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small_run, tmp_path / "results" / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = [run_cell(source, names) for source in cells(notebook)]
    assert len(found) >= 5
    assert len([value for value in found if value is not None]) >= 4
    assert all("trial" in value._repr_html_() for value in found if isinstance(value, SearchResult))


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_the_first_search_runs(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs its cells, on a smaller network and with two trials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))  # as in a notebook
    names: dict[str, Any] = {}
    first, *others = cells(FIRST)
    run_cell(first, names)
    names["job"] |= {"model": "test_resnet", "checkpoint": teacher, "methods": ["quantize"], "trials": 2}
    names["job"] |= {"latency": "9x", "accuracy_drop": 100.0, "budget": {"epochs": 0}, "search": {"tables": False}}
    found = [run_cell(source, names) for source in others]
    assert isinstance(found[0], SearchResult)
    assert "use trial" in found[0]._repr_html_()
    assert found[-1].sum() == 2
    shown = capsys.readouterr().out
    assert "\r2 of 2 trials; trial " in shown, "the progress is shown"
    assert re.search(r"\r2 trials done *\n", shown)
    told = subprocess.run(
        [sys.executable, "first-model/infer.py", write_picture(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "picture.png" in told.stdout


def write_picture(folder: Path) -> str:
    Image.new("L", (8, 8), 90).save(folder / "picture.png")
    return "picture.png"


def test_a_notebook_shows_a_picture_and_a_table(tmp_path: Path) -> None:
    result = read(write_run(tmp_path))
    text = result._repr_html_()
    best = result.recommended()
    assert best is not None
    assert f"use trial {best['trial']}: " in text
    assert text.count('<circle class="mark front') == len(result.models)
    assert f"<td>{best['trial']} (recommended)</td>" in text
    assert "<script" not in text


def test_names_in_notebooks_are_escaped(tmp_path: Path) -> None:
    text = read(write_run(tmp_path, name="<script>alert(1)</script>"))._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_running_search_is_shown(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    assert "No front yet." in read(tmp_path)._repr_html_()

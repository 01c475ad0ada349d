"""Runs in notebooks: their HTML, and the notebooks of docs/examples, whose cells run here."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_run import JOB, write_run

from autocompress import SearchResult, read

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    told = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in told["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does, and returns the value of its last expression."""
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


def test_a_run_that_goes_on_is_shown(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    assert "No front yet." in read(tmp_path)._repr_html_()

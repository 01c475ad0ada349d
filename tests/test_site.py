"""The site of the documents: generated pages are complete, and it builds without warnings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from doc_pages import ROOT
from patience import patient

sys.path.insert(0, str(ROOT / "docs" / "site"))
ROW = re.compile(r"^\| (.+) \|$", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    import reference

    return reference


def cells(page: str) -> list[list[str]]:
    """The rows of the tables of a page, without header rows."""
    rows = [re.split(r"(?<!\\) ?\| ?", row) for row in ROW.findall(page)]
    return [row for row in rows if row[0].startswith("`")]


def test_every_parameter_of_every_method_is_described(reference: ModuleType) -> None:
    rows = cells(reference.methods_page())
    known = {"`prune.method`", "`ghost.ratio.GROUP`", "`quantize.rounding`", "`onnxruntime-cpu`"}
    assert known <= {row[0] for row in rows}
    assert [row[0] for row in rows if not row[-1].strip()] == []


def test_all_parameters_of_the_engine_are_described(reference: ModuleType) -> None:
    from method_pages import ENGINE

    rows = cells(reference.methods_page().partition("## deepinversion")[0])
    assert {row[0].strip("`").replace(".GROUP", "") for row in rows} == set(ENGINE)


def test_every_flag_and_public_name_is_described(reference: ModuleType) -> None:
    import autocompress

    flags = cells(reference.flags_page())
    assert len(flags) > 60
    assert [row[0] for row in flags if not row[-1].strip()] == []
    python = reference.python_page()
    assert [
        name for name in autocompress.__all__ if name != "__version__" and f"## autocompress.{name}\n" not in python
    ] == []


def test_docstrings_become_markdown() -> None:
    from docstrings import sections

    text = "Does ``x``.\n\nArgs:\n    one: the first,\n        which goes on.\n\nReturns:\n    ``y``."
    assert sections(text) == "Does `x`.\n\n**Args**\n\n- `one`: the first, which goes on.\n\n**Returns**\n\n- `y`."


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra 'docs' is not installed")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patient(300))
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    assert (tmp_path / "results" / "reference" / "demo" / "front.png").is_file()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?([^\s\">]+)", text)
        fetched += re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preload|preconnect)[^>]*href=\"?([^\s\">]+)", text)
        assert [one for one in fetched if re.match(r"(?:https?:)?//", one)] == [], page.name

"""README and docs: the job file and the plugin are valid, and commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from autocompress.contract import Manager
from autocompress.job import load_job
from autocompress.testing import check_method

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "results/README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
MOST_LINES = 150


def block(page: str, language: str, first_line: str) -> str:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    (found,) = [code for kind, code in blocks if kind == language and code.startswith(first_line)]
    return found


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= MOST_LINES, "details belong to docs/"


def test_its_commands_exist() -> None:
    from typer.main import get_command

    from autocompress.cli.app import app

    named = set(re.findall(r"^    autocompress ([a-z-]+)", TEXT, flags=re.MULTILINE))
    assert len(named) >= 8
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_readme_shows_the_two_commands() -> None:
    assert "make demo" in TEXT
    assert "make test" in TEXT


def test_the_job_file_is_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(block("README.md", "yaml", "# job.yaml"))
    job = load_job("job.yaml")
    assert set(yaml.safe_load(Path("job.yaml").read_text())) <= set(type(job).model_fields)


def test_the_plugin_conforms() -> None:
    code = block("docs/plugins.md", "python", "# lowrank.py")
    assert len([line for line in code.splitlines() if line.strip()]) <= 42
    plugin = ModuleType("lowrank")
    exec(compile(code, "plugins.md", "exec"), plugin.__dict__)
    manager = Manager(entry_points=False)
    manager.register(plugin)
    check_method(manager.method("lowrank"))


def targets(text: str) -> set[str]:
    """The relative targets of links and images in Markdown or HTML, without anchors.

    Code is skipped.
    """
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(\s*<?([^\s)>]+)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, flags=re.MULTILINE)
    paths = {target.partition("#")[0] for target in found if not re.match(r"[a-z]+:", target)}
    return paths - {""}


@pytest.mark.parametrize("page", PAGES)
def test_link_targets_exist(page: str) -> None:
    file = ROOT / page
    text = file.read_text(encoding="utf-8")
    missing = [path for path in sorted(targets(text)) if not (file.parent / path).exists()]
    missing += [script for script in re.findall(r"`python (\S+\.py)", text) if not (ROOT / script).is_file()]
    # The table of the results page has the file in the first column.
    rows = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE) if page == "results/README.md" else []
    missing += [row for row in rows if not (file.parent / row).exists()]
    assert missing == []


def test_links_are_found_in_every_form() -> None:
    text = '[a](b.md#c) ![d](e/f.png) [g](https://h.org) <img src="i.svg"> [j](#k)\n[l]: m.md\n```\n[n](o.md)\n```\n'
    assert targets(text) == {"b.md", "e/f.png", "i.svg", "m.md"}

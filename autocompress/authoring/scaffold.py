"""Writes a new plugin: a package with an example, its test and a workflow for CI."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path

from autocompress.errors import UserError, did_you_mean

KINDS = ("pruner", "transform", "quantizer", "source", "device", "dataset", "observer", "sampler", "command")
"""Kinds of plugins that there is an example of."""
NAME = re.compile(r"[a-z][a-z0-9_]*")

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "autocompress-{name}"
version = "0.1.0"
description = "A {kind} for autocompress"
requires-python = ">=3.11"
dependencies = ["autocompress"]

[project.optional-dependencies]
dev = ["pytest"]

[project.entry-points.autocompress]
{name} = "autocompress_{name}"

[tool.hatch.build.targets.wheel]
only-include = ["autocompress_{name}.py"]
"""
TEST = """\
\"\"\"The plugin keeps the rules on which autocompress relies.\"\"\"

import autocompress_{name}
from autocompress.testing import check_plugin


def test_conforms() -> None:
    check_plugin(autocompress_{name})
"""
WORKFLOW = """\
name: tests
on: [push, pull_request]
jobs:
  tests:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.11"}
      - run: python -m pip install --editable '.[dev]'
      - run: python -m pytest
"""
README = """\
# autocompress-{name}

A {kind} for autocompress.

    python -m pip install --editable '.[dev]'
    python -m pytest
    autocompress check-plugin {name}

Without an installation: `autocompress search ... --plugin autocompress_{name}.py`.
"""


def new_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a package of ``kind`` into ``folder / autocompress-<name>``.

    Args:
        name: of the method, device or data set; lower-case letters, digits and underscores.
        kind: one of ``KINDS``.
        folder: where the package's folder is made.

    Returns:
        The files.

    Raises:
        UserError: if the name or the kind is not allowed, or the folder exists.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot name a plugin",
            "a letter, then letters, digits and _, all lower-case; no word of Python",
        )
    if kind not in KINDS:
        raise UserError(f"unknown kind '{kind}'", did_you_mean(kind, KINDS))
    home = folder / f"autocompress-{name}"
    if home.exists():
        raise UserError(f"{home} exists already", "choose another name or folder")
    code = resources.files("autocompress.authoring.examples").joinpath(f"{kind}.py").read_text(encoding="utf-8")
    title = "".join(word.capitalize() for word in name.split("_"))
    if kind == "command":  # typed by users, who expect hyphens
        code = code.replace('"example"', f'"{name.replace("_", "-")}"')
    code = re.sub(r"\bexample\b", name, code).replace("Example", title)
    texts = {
        f"autocompress_{name}.py": code,
        "pyproject.toml": PROJECT.format(name=name, kind=kind),
        f"tests/test_{name}.py": TEST.format(name=name),
        ".github/workflows/tests.yml": WORKFLOW,
        "README.md": README.format(name=name, kind=kind),
    }
    for path, text in texts.items():
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return [home / path for path in texts]

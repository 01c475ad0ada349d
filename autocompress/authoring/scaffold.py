"""Writes a new plugin: a package with an example, its test and a workflow for CI."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from autocompress.errors import UserError, did_you_mean

KINDS = ("pruner", "transform", "quantizer", "source", "device", "dataset", "observer", "sampler", "command", "task")
"""Kinds of plugins with an example."""
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
{entry}
[tool.hatch.build.targets.wheel]
only-include = ["autocompress_{name}.py"]
"""
ENTRY = """
[project.entry-points.autocompress]
{name} = "autocompress_{name}"
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
    autocompress check-plugin {checked}

Without an installation: `autocompress {use}`.
"""


def new_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a package of ``kind`` into ``folder / autocompress-<name>``.

    Args:
        name: name of the method, device, data set or other part; lower-case letters, digits and
            underscores.
        kind: one of ``KINDS``.
        folder: where the package's folder is made.

    Returns:
        The files.

    Raises:
        UserError: if the name or the kind is not allowed, the name is taken, or the folder exists.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot name a plugin",
            "use lower-case letters, digits and _, a letter first, and no keyword of Python",
        )
    if kind not in KINDS:
        raise UserError(f"unknown kind '{kind}'", did_you_mean(kind, KINDS))
    home = folder / f"autocompress-{name}"
    typed = name.replace("_", "-") if kind == "command" else name  # users expect hyphens
    if typed in _taken(kind):
        raise UserError(f"'{typed}' cannot name a {kind}, because the name is taken", "choose another name")
    if home.exists():
        raise UserError(f"{home} exists already", "choose another name or folder")
    code = resources.files("autocompress.authoring.examples").joinpath(f"{kind}.py").read_text(encoding="utf-8")
    title = "".join(word.capitalize() for word in name.split("_"))
    if kind == "command":
        code = code.replace('"example"', f'"{typed}"')
    code = re.sub(r"\bexample\b", name, code).replace("Example", title)
    file = f"autocompress_{name}.py"
    uses = {"command": f"--plugin {file} {typed}", "task": f"search ... --task {file}:{title}"}
    use, is_named = uses.get(kind, f"search ... --plugin {file}"), kind == "task"  # a job names it, no entry point
    texts = {
        file: code,
        "pyproject.toml": PROJECT.format(name=name, kind=kind, entry="" if is_named else ENTRY.format(name=name)),
        f"tests/test_{name}.py": TEST.format(name=name),
        ".github/workflows/tests.yml": WORKFLOW,
        "README.md": README.format(name=name, kind=kind, use=use, checked=file if is_named else name),
    }
    for path, text in texts.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text, encoding="utf-8")
    return [home / path for path in texts]


def _taken(kind: str) -> frozenset[str]:
    """The names of ``kind`` that a plugin cannot have, because others have them."""
    from autocompress.contract import manager  # imports torch
    from autocompress.contract.command import OWN_COMMANDS
    from autocompress.contract.registration import ENGINE_NAMES

    plugins = manager()
    offers: dict[str, Callable[[], list[Any]]] = {
        "device": plugins.devices,
        "dataset": plugins.datasets,
        "observer": list,
        "task": list,
        "sampler": plugins.samplers,
        "command": plugins.commands,
    }
    own = OWN_COMMANDS if kind == "command" else frozenset() if kind in offers else ENGINE_NAMES
    return own | {one.name for one in offers.get(kind, plugins.methods)()}

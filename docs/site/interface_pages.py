"""Pages of the Python interface and of the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import typer
from docstrings import GENERATED, cell, prose, sections

import autocompress
from autocompress.authoring.reference import plain_signature
from autocompress.cli.app import app

FUNCTIONS = ["search", "resume", "read", "load", "export_model", "check", "compare", "compare_files", "debug"]
"""Public functions, in the order in which a reader meets them."""


def python_page() -> str:
    """The public names of the package."""
    parts = [f"# Python\n\n{GENERATED} These names are the public interface.\n\n```python\nimport autocompress\n```\n"]
    order = [*FUNCTIONS, *(name for name in autocompress.__all__ if name not in FUNCTIONS)]
    for name in order:
        thing = getattr(autocompress, name)
        if name in ("__version__", "Job"):
            continue
        parts.append(f"\n## autocompress.{name}\n\n{_documented(thing, name)}")
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            parts += [_member(thing, member) for member in vars(thing) if not member.startswith("_")]
    parts.append(
        "\n## autocompress.Job\n\nThe job that a search was asked for; `SearchResult.job` has it. "
        "Its attributes are the [keys of a job file](job.md).\n"
    )
    return "".join(parts)


def _member(owner: type, name: str) -> str:
    found = inspect.getattr_static(owner, name)
    thing = found.fget if isinstance(found, property) else found
    if isinstance(thing, (classmethod, staticmethod)):
        thing = thing.__func__
    text = inspect.getdoc(thing)
    if not callable(thing) or not text:
        return ""
    shown = name if isinstance(found, property) else f"{name}{_signature(thing)}"
    return f"\n### {owner.__name__}.{name}\n\n```python\n{shown}\n```\n\n{sections(text)}\n"


def _documented(thing: Any, name: str) -> str:
    called = "" if inspect.isclass(thing) else f"```python\n{name}{_signature(thing)}\n```\n\n"
    return f"{called}{sections(inspect.getdoc(thing) or '')}\n"


def _signature(thing: Callable[..., Any]) -> str:
    text = str(plain_signature(thing))
    text = re.sub(r"\b(?:pathlib|pandas(?:\.\w+)*|collections\.abc|typing|torch\.nn)\.", "", text)
    return text if len(text) < 80 else text.replace("(", "(\n    ", 1).replace(", ", ",\n    ")


def flags_page() -> str:
    """Every command with its arguments and flags."""
    group = typer.main.get_command(app)
    parts = [
        f"# Commands and flags\n\n{GENERATED} [Commands and what they leave](../commands.md) has the exit codes.\n"
    ]
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    for path, command in _commands(group, "autocompress"):
        parts.append(f"\n## {path}\n\n{prose(inspect.cleandoc(command.help or ''))}\n")
        rows = [_flag_row(one) for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
        if rows:
            parts.append("\n| argument or flag | what it does |\n|---|---|\n" + "".join(rows))
    return "".join(parts)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def _flag_row(parameter: Any) -> str:
    spelled = [*parameter.opts, *parameter.secondary_opts]
    is_flag = any(word.startswith("-") for word in spelled)
    name = ", ".join(f"`{word}`" for word in spelled) if is_flag else f"`{parameter.metavar or parameter.name.upper()}`"
    return f"| {name} | {cell(getattr(parameter, 'help', None) or '')} |\n"

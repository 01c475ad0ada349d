"""Reads YAML files with the line of every key; only plain values are made."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autocompress.errors import UserError
from autocompress.job.source import Source


@dataclass(frozen=True)
class Document:
    """The top-level mapping of a file, and the line of each key."""

    values: dict[str, Any]
    source: Source


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads ``1e-3`` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_yaml(path: Path, what: str) -> Document:
    """Reads the mapping in ``path``; ``what`` names the kind of file in errors.

    Raises:
        UserError: if the file cannot be read, is not YAML, has a key twice, or holds no mapping.
    """
    text = _read(path, what)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        if node is not None:
            _walk(node, (), path, lines, set(), set())
        values = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, OverflowError) as error:  # a date such as 2024-13-40
        raise UserError(f"{path}: a value cannot be read: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise UserError(f"{path}: the {what} {found}, not 'key: value' lines")
    return Document(values, Source(path, {key: (path, line) for key, line in lines.items()}))


def parse_value(text: str) -> Any:
    """One YAML value, as in a file; text that is not YAML stays text."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError):
        return text
    finally:
        loader.dispose()


def _read(path: Path, what: str) -> str:
    if path.is_dir():
        hint = f"to continue the run: autocompress resume {path}" if (path / "job.yaml").is_file() else ""
        raise UserError(f"{path} is a folder, not a {what}", hint)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no {what} {path}", _similar(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the {what} {path}: {reason}") from None


def _similar(path: Path) -> str:
    """A hint with files beside ``path`` that have similar names; empty if there are none."""
    near = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.stem, [file.stem for file in near], n=2, cutoff=0.6)
    told = [f"'{file}'" for file in near if file.stem in close]
    return f"did you mean {' or '.join(told)}?" if told else ""


def _walk(
    node: yaml.Node, path: tuple[str, ...], file: Path, lines: dict[str, int], above: set[int], done: set[int]
) -> None:
    """Records the line of each key below ``node``; refuses duplicate keys and recursive values."""
    if id(node) in above:
        raise UserError(f"{file}:{node.start_mark.line + 1}: a value cannot contain itself")
    # Each alias is visited once, because nested aliases grow exponentially.
    if id(node) in done or not isinstance(node, yaml.CollectionNode):
        return
    done.add(id(node))
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _walk(item, path, file, lines, above, done)
        return
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{file}:{line}: a key must be a word")
        key = key_node.value
        dotted = ".".join([*path, key])
        if key in seen and key != "<<":
            raise UserError(f"{file}:{line}: '{dotted}' is given twice, first on line {seen[key]}", "drop one")
        seen[key] = line
        lines.setdefault(dotted, line)
        _walk(value, (*path, key), file, lines, above, done)

"""Docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

GENERATED = "This page is made from the code of autocompress."
"""The first sentence of every generated page."""


def tidied(text: str) -> str:
    """Docstring marks as Markdown: double backquotes and roles are code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def prose(text: str) -> str:
    """A docstring without sections; what stands indented stays a block of code."""
    return "\n\n".join(
        part if part.startswith("    ") else tidied(part) for part in re.split(r"\n\s*\n", textwrap.dedent(text))
    )


def sections(text: str) -> str:
    """A docstring with Google's sections as Markdown: arguments are a list, examples code."""
    head, *rest = re.split(r"^(Args|Attributes|Returns|Raises|Yields|Examples?)::?\n", text, flags=re.MULTILINE)
    parts = [prose(head.strip("\n"))]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        block, after = _indented(body)
        parts.append(f"**{title}**")
        if title.startswith("Example"):
            parts.append(f"```python\n{textwrap.dedent(block).strip()}\n```")
        else:
            parts.append("\n".join(_items(textwrap.dedent(block))))
        parts += [prose(after)] if after else []
    return "\n\n".join(part for part in parts if part.strip())


def _indented(body: str) -> tuple[str, str]:
    """The indented block at the start of a section's text, and what follows it."""
    lines = body.splitlines()
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("    ")), len(lines))
    return "\n".join(lines[:end]), "\n".join(lines[end:]).strip()


def _items(block: str) -> Iterator[str]:
    """``name: what`` with lines that go on, as items of a list."""
    for item in re.split(r"\n(?=\S)", block.strip()):
        words = tidied(" ".join(item.split()))
        name, colon, what = words.partition(": ")
        simple = colon and re.fullmatch(r"[\w, *.]+", name)
        yield f"- `{name}`: {what}" if simple else f"- {words}"


def first_paragraph(model: type) -> str:
    text = inspect.getdoc(model) or ""
    return tidied(text.partition("\n\nMake one with")[0].replace("\n\n", "\n\n"))


def cell(text: str) -> str:
    """Text that fits into one cell of a table."""
    return tidied(" ".join(text.split())).replace("|", "\\|")

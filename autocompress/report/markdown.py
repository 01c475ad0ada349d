"""Markdown that shows any text literally."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

LONGEST = 200
"""Maximum length of a name or a cell; longer texts are cut."""
_SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories of invisible characters: control characters and writing directions."""


def plain(value: Any, longest: int = LONGEST) -> str:
    """``value`` on one line, without unseen characters, at most ``longest`` characters."""
    spaced = "".join(" " if unicodedata.category(one) in _UNSEEN else one for one in str(value))
    text = " ".join(spaced.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def escaped(value: Any, longest: int = LONGEST) -> str:
    """``value`` as Markdown that shows it literally: on one line, without markup and HTML."""
    text = plain(value, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> str:
    """A table; its first ``left`` columns are aligned left, the others right."""
    rule = [":--" if number < left else "--:" for number in range(len(headings))]
    lines = [list(map(escaped, headings)), rule, *(list(map(escaped, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def fenced(text: str, language: str = "") -> str:
    """A block of code with ``text``, which may contain backticks."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"

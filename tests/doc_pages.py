"""The code blocks of the documents, and the notes that say which test runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = (
    *("autocompress", "python", "pip", "make", "cp", "ray", "ssh", "ssh-copy-id", "optuna-dashboard"),
    *("kubectl", "sbatch", "apt-get", "export"),
)
"""Commands that a block may begin with. Settings such as ``RAY_ADDRESS=...`` may precede them."""
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(map(re.escape, PROGRAMS))})\s")
NOTE = re.compile(r"<!-- (not run|run by): (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: its file, from the repository's root.
        kind: "commands", the language of a fence, or "" for anything else.
        text: without its indentation.
        note: the comment above it: ("not run", why) or ("run by", a test file); None without one.
    """

    page: str
    kind: str
    text: str
    note: tuple[str, str] | None

    @property
    def commands(self) -> list[str]:
        """The lines of a block of commands; empty for other blocks."""
        lines = self.text.splitlines() if self.kind == "commands" else []
        return [line for line in lines if line.strip()]


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    return list(_blocks(page, (ROOT / page).read_text(encoding="utf-8").splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    note: tuple[str, str] | None = None
    at = 0
    while at < len(lines):
        line = lines[at]
        if found := NOTE.fullmatch(line.strip()):
            note = (found[1], found[2])
        elif line.strip().startswith("```"):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            yield _block(page, line.strip()[3:], lines[at + 1 : end], note)
            note, at = None, end
        elif line.startswith("    ") and (
            at == 0 or not lines[at - 1].strip() or NOTE.fullmatch(lines[at - 1].strip())
        ):
            end = next(
                (n for n in range(at, len(lines)) if lines[n].strip() and not lines[n].startswith("    ")), len(lines)
            )
            fence = next((n for n in range(at, end) if lines[n].strip().startswith("```")), end)
            if fence > at:
                yield _block(page, "", lines[at:fence], note)
            note, at = None, fence - 1
        elif line.strip():
            note = None
        at += 1


def _block(page: str, language: str, lines: list[str], note: tuple[str, str] | None) -> Block:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    text = "\n".join(line[indent:] for line in lines).strip()
    kind = "commands" if language in ("", "sh") and COMMAND.match(text) else language
    return Block(page, kind, text, note)

"""Safe standard output and error, for closed pipes and terminals that lack characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

PLAIN = {
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "µ": "u",
    "·": "*",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "━": "-",
    "─": "-",
    "╸": "-",
    "╺": "-",
    "│": "|",
}
"""Replacements for characters that a terminal cannot show."""
MOST_SAID = 2000
"""Maximum length of a sentence or a path in the output; reasons of failed trials may be long."""
WIDEST = 1000
"""Maximum width of a table in characters, where the output is not a terminal."""
ERROR_HANDLER = "autocompress.plain"


def protect() -> None:
    """Makes ``sys.stdout`` and ``sys.stderr`` safe for the rest of the process."""
    _open_standard_descriptors()
    codecs.register_error(ERROR_HANDLER, _plain)
    sys.stdout = _protected(sys.stdout, 1)
    sys.stderr = _protected(sys.stderr, 2)


def is_closed() -> bool:
    """Whether the pipe or terminal of standard output is closed."""
    return isinstance(sys.stdout, _Quiet) and sys.stdout.is_closed


def _protected(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # closed before Python began
        return Path(os.devnull).open("w", encoding="utf-8", errors=ERROR_HANDLER)
    if isinstance(stream, io.TextIOWrapper) and _descriptor(stream) == descriptor:
        stream.reconfigure(errors=ERROR_HANDLER)
        return cast("TextIO", _Quiet(stream))
    return stream  # replaced by a test or a notebook


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _open_standard_descriptors() -> None:
    """Opens descriptors 0, 1 and 2 if they are closed.

    Otherwise a file that is opened later would get such a number, and libraries would print into
    it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # pragma: no cover
                os.dup2(opened, descriptor)
                os.close(opened)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_ascii, text)), error.end


def _ascii(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    without_accents = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return without_accents or "?"


class _Quiet(io.TextIOBase):
    """A text stream that discards everything after the first error."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self.is_closed = False

    def write(self, text: str) -> int:
        """Writes ``text`` if that is possible."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flushes the stream if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Points the descriptor to the null device, so that Python's last flush raises nothing."""
        self.is_closed = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The name of the encoding."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The treatment of characters that the encoding lacks."""
        return self._stream.errors

    @property
    def buffer(self) -> io.BufferedIOBase:
        """The stream of bytes below."""
        return self._stream.buffer  # type: ignore[return-value]


def has_width(console: Console) -> bool:
    """Whether the output has a width: a terminal, or the variable COLUMNS."""
    return console.is_terminal or "COLUMNS" in os.environ


def print_table(console: Console, table: Table | Group) -> None:
    """Prints a table. Where nothing limits the width, names are not wrapped."""
    if not has_width(console):
        wanted = console.measure(table, options=console.options.update(width=WIDEST)).maximum
        console.width = max(console.width, wanted)
    console.print(table)


def say(console: Console, text: str) -> None:
    """Prints ``text`` without markup, highlighting or wrapping of lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def one_line(path: Path) -> str:
    """A path on one line, without control characters."""
    from autocompress.report.markdown import plain

    return plain(path, MOST_SAID)

"""Runs the command line in the process of the test, in which torch is already imported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from autocompress.cli import main


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


class Commands:
    """Runs commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.columns = 200

    def run(self, *arguments: str | Path) -> Printed:
        """Runs ``autocompress ARGUMENTS``, whatever its exit code."""
        self._monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        self._monkeypatch.setenv("COLUMNS", str(self.columns))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        return Printed(printed.out, printed.err, int(ended.value.code or 0))

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """The output of the command; if ``code`` is 2, its one sentence on stderr."""
        printed = self.run(*arguments)
        assert printed.code == code, printed
        if code != 2:
            return printed.out
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

"""Rules for sub-commands."""

from __future__ import annotations

import inspect
from contextlib import redirect_stdout
from io import StringIO

from autocompress.contract import Command
from autocompress.testing.rules import Report, require

MOST_WORDS = 100
"""Maximum length of the first line of help, which ``autocompress --help`` shows."""


def check_command(command: Command) -> None:
    """Builds a sub-command as the command line does, and checks its help text.

    The command is not run.

    Args:
        command: the sub-command of the plugin.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    report = Report()
    report.check(_check_help, command)
    report.end()


def _check_help(command: Command) -> None:
    made = command.built()
    words = (made.help or "").strip().splitlines()
    require(
        bool(words) and bool(words[0].strip()),
        "a command must have a help text: the docstring of its function, or help= of its typer.Typer",
    )
    require(len(words[0]) <= MOST_WORDS, f"the first line of help must have at most {MOST_WORDS} characters")
    require(not inspect.iscoroutinefunction(command.run), "run must be a plain function, not a coroutine")
    with redirect_stdout(StringIO()):
        made.main(["--help"], prog_name=command.name, standalone_mode=False)

"""Command: a sub-command of ``autocompress`` that a plugin brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OWN_COMMANDS = frozenset(
    [
        "search",
        "resume",
        "show",
        "report",
        "plugins",
        "new-plugin",
        "check-plugin",
        "check",
        "compare",
        "watch",
        "debug",
        "export",
        "measure",
        "submit",
        "cluster",
        "synthesize",
        "similarity",
    ]
)
"""The commands of autocompress itself, whose names no plugin can have."""


@dataclass(frozen=True)
class Command:
    """A sub-command: ``autocompress NAME``.

    An error that the user can correct is an ``autocompress.errors.UserError``. It ends the command
    with one line and exit code 2.

    Attributes:
        name: lower-case letters, digits and hyphens.
        run: a function as typer takes it (arguments by annotation, help by docstring), or a
            ``typer.Typer`` with sub-commands of its own. Import what takes long inside of it, so
            that ``autocompress --help`` stays quick.
    """

    name: str
    run: Callable[..., Any]

    def built(self) -> Any:
        """The command as the command line runs it: an object of typer's.

        Raises:
            Exception: whatever typer raises if it cannot make a command, for example of an
                annotation.
        """
        import typer

        made: Any
        if isinstance(self.run, typer.Typer):
            made = typer.main.get_group(self.run)  # also of one sub-command: its name is typed
        else:
            app = typer.Typer(add_completion=False)
            app.command()(self.run)
            made = typer.main.get_command(app)
        made.name = self.name
        return made

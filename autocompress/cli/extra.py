"""The group of commands, with those that plugins bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from autocompress.errors import ExitCode, UserError

if TYPE_CHECKING:
    from autocompress.contract import Command

PANEL = "Commands of plugins"
FILES = "plugins"
"""The parameter of a command that takes ``--plugin``."""


class Commands(TyperGroup):
    """The own commands, then those of plugins; plugins are loaded only where one is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for ``--help``."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in _of_plugins(ctx) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called ``cmd_name``; an own one where two have the name."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or (found := _of_plugins(ctx).get(cmd_name)) is None:
            return own
        made = found.built()
        made.rich_help_panel = PANEL
        return made

    def invoke(self, ctx: Any) -> Any:
        """Runs the command. typer would end with exit code 1 where Ctrl-C ends it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            _name_plugin(error, ctx)
            raise


def add_files(ctx: typer.Context, files: list[Path] | None) -> list[Path] | None:
    """Loads the files of ``--plugin``, for this process. A callback of the option.

    Raises:
        UserError: naming a file that cannot be used.
    """
    if files and not ctx.resilient_parsing:
        from autocompress.contract import manager

        for file in files:
            if not file.is_file():
                raise UserError(f"--plugin names no file: {file}")
            manager().add_file(file)
    return files


def pass_on(ctx: typer.Context, files: list[Path] | None) -> None:
    """Makes the files the default of ``--plugin`` of each command."""
    if files:
        ctx.default_map = {name: {FILES: files} for name in ctx.command.list_commands(ctx)}  # type: ignore[attr-defined]


def _of_plugins(ctx: Any) -> dict[str, Command]:
    """The commands of plugins by name; none where nothing but autocompress is installed."""
    from autocompress.job.modelnames import other_plugins

    if not other_plugins() and not ctx.params.get(FILES):
        return {}
    from autocompress.contract import manager

    return {command.name: command for command in manager().commands()}


def _name_plugin(error: Exception, ctx: Any) -> None:
    """Adds to the traceback of ``error`` whose command it was."""
    name = ctx.invoked_subcommand
    expected = isinstance(error, UserError | OSError) or hasattr(error, "exit_code")
    if expected or name in ctx.command.commands:
        return
    from autocompress.contract import manager

    maker = next((manager().maker(command) for command in manager().commands() if command.name == name), "")
    if maker:
        error.add_note(f"the command '{name}' belongs to the plugin '{maker}', not to autocompress")

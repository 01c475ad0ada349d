"""The group of commands, including those of plugins."""

from __future__ import annotations

import logging
from functools import cache
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
OF_THE_JOB = {
    "submit": "the nodes load the files of the job",
    "resume": "a run continues with its own plugin files",
}
"""Commands that take no other plugin files than those of the job, and why."""
log = logging.getLogger("autocompress")


class Commands(TyperGroup):
    """The commands of autocompress, then those of plugins, which are loaded when needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for ``--help``."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in _of_plugins(ctx) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called ``cmd_name``; one of autocompress comes before one of a plugin.

        A command that typer cannot make is skipped, so that the others and ``--help`` still work.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None or (found := _of_plugins(ctx).get(cmd_name)) is None:
            return own
        try:
            made = found.built()
        except Exception as error:
            _say_skipped(found.name, _maker(found.name), type(error).__name__, str(error).strip().partition("\n")[0])
            return None
        made.rich_help_panel = PANEL
        return made

    def invoke(self, ctx: Any) -> Any:
        """Runs the command. Without this method, typer would use exit code 1 after Ctrl-C."""
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


def with_earlier(ctx: typer.Context, files: list[Path] | None) -> list[Path] | None:
    """The files of ``--plugin``, after those before the name of the command.

    A callback of the option of commands with a job: workers load the files of the job only.
    """
    earlier = list(ctx.find_root().params.get(FILES) or [])
    return [*earlier, *(file for file in files or [] if file not in earlier)] or None


def check_taken(command: str | None, files: list[Path] | None) -> None:
    """Refuses plugin files before the name of a command that cannot use them.

    Raises:
        UserError: if there are some.
    """
    if files and command in OF_THE_JOB:
        hint = f"write 'plugins: [{files[0]}]' in the job file" if command == "submit" else "leave --plugin out"
        raise UserError(f"{command} takes no --plugin: {OF_THE_JOB[command]}", hint)


def _of_plugins(ctx: Any) -> dict[str, Command]:
    """The commands of plugins by name; empty if only autocompress is installed."""
    from autocompress.job.modelnames import other_plugins

    if not other_plugins() and not ctx.params.get(FILES):
        return {}
    from autocompress.contract import manager

    return {command.name: command for command in manager().commands()}


def _name_plugin(error: Exception, ctx: Any) -> None:
    """Adds a note to the traceback of ``error`` that names the plugin of the command."""
    name = ctx.invoked_subcommand
    expected = isinstance(error, UserError | OSError) or hasattr(error, "exit_code")
    if expected or name in ctx.command.commands:
        return
    if maker := _maker(name):
        error.add_note(f"the command '{name}' belongs to the plugin '{maker}', not to autocompress")


def _maker(name: str) -> str:
    """The plugin of the command called ``name``; empty if there is none."""
    from autocompress.contract import manager

    return next((manager().maker(command) for command in manager().commands() if command.name == name), "")


@cache  # ``--help`` asks for each command more than once
def _say_skipped(name: str, maker: str, kind: str, words: str) -> None:
    reason = f"{kind}: {words}" if words else kind
    log.warning("the command '%s' of plugin '%s' is skipped: %s", name, maker, reason)

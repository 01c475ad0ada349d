"""Registers the commands. Each has a file in ``commands/``."""

from __future__ import annotations

import typer

from autocompress.cli import options, plugin_commands
from autocompress.cli.commands import (
    check,
    check_plugin,
    cluster,
    compare,
    debug,
    export,
    measure,
    new_plugin,
    plugins,
    report,
    resume,
    search,
    show,
    similarity,
    submit,
    synthesize,
    watch,
)

app = typer.Typer(
    cls=plugin_commands.Commands,
    name="autocompress",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def begin(ctx: typer.Context, plugins: options.OwnPlugins = None) -> None:
    """Search for compressed models, measured on the device that will run them.

    A search changes operators, removes channels and reduces bits.
    """
    plugin_commands.check_taken(ctx.invoked_subcommand, plugins)


app.command()(search.search)
app.command()(resume.resume)
app.command()(show.show)
app.command()(report.report)
app.command()(plugins.plugins)
app.command()(new_plugin.new_plugin)
app.command()(check_plugin.check_plugin)
app.command()(check.check)
app.command()(compare.compare)
app.command()(watch.watch)
app.command()(debug.debug)
app.command()(export.export)
app.command()(measure.measure)
app.command()(submit.submit)
app.add_typer(cluster.cluster)
app.command()(synthesize.synthesize)
app.command()(similarity.similarity)

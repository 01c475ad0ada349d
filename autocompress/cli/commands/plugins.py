"""``autocompress plugins``: the installed plugins."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from autocompress.cli import options
from autocompress.job import check_model_name, load_job


def plugins(
    model: Annotated[str | None, typer.Option(help="Say which methods apply to this timm model.")] = None,
    granularity: Annotated[str, typer.Option(help="Scope of the listed parameters: model, stage or block.")] = "model",
    plugins: options.OwnPlugins = None,
) -> None:
    """List the installed methods, devices, data sets, samplers and commands."""
    del plugins  # the option's callback loads them
    if model:
        check_model_name(load_job(settings={"model": model, "data": "digits"}, flags=True))

    from autocompress.cli import catalogue

    catalogue.show(model, granularity, Console())

"""A command: the models of a run's front, one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import autocompress
from autocompress.contract import Command, hookimpl


def example(
    run: Annotated[Path, typer.Argument(help="Folder of a run, results/NAME.")],
    most: Annotated[int, typer.Option(help="Number of models.", min=1)] = 10,
) -> None:
    """Print trial, accuracy and size of the models on the front of a run."""
    models = autocompress.read(run).models  # a UserError where it is no run: one line, exit code 2
    for row in models.head(most).to_dict("records"):
        print(f"{row['trial']}  {row['accuracy']:.2f} %  {row['size_bytes'] / 1e3:.0f} kB")


@hookimpl
def autocompress_commands() -> list[Command]:
    """The commands of this plugin."""
    return [Command("example", example)]

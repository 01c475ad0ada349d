"""``autocompress show``: the front of a run, or the fronts of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.cli.ending import show_result

Runs = Annotated[
    list[Path],
    typer.Argument(help="Folders of one or more runs, results/NAME.", metavar="RUN...", show_default=False),
]


def show(run_folders: Runs) -> None:
    """Print the front of a run, or the fronts of several."""
    from autocompress.results import read

    console = Console()
    for number, result in enumerate([read(folder) for folder in run_folders]):
        if number:
            console.print()
        show_result(result, console)

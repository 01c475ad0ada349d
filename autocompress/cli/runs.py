"""Commands about runs: compare, watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.cli.models import Json, Run


def compare(
    run_folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of two runs or more, results/NAME.", metavar="A B...", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Compare runs on common axes: costs at equal loss of accuracy, fronts, and their jobs.

    autocompress compare results/one results/other
    """
    from autocompress.report import compared
    from autocompress.results.comparison import compare

    found = compare(*run_folders)
    if as_json:
        print(json.dumps(compared.as_json(found), indent=2, default=str))
        return
    Console().print(compared.tables(found))


def watch(
    run_folder: Run,
    once: Annotated[bool, typer.Option("--once", help="Print the progress of the search once.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two updates.", min=0.1, max=3600)] = 1.0,
) -> None:
    """Follow a search from another terminal: phase, workers, time left and current front.

    It ends with the search. On a pipe it prints a line for each change.

    autocompress watch results/demo
    """
    from autocompress.cli.watch import follow

    follow(run_folder, once=once, every=every)

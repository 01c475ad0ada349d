"""``autocompress compare``: several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.cli.options import Json
from autocompress.cli.output import print_table


def compare(
    run_folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of two runs or more, results/NAME.", metavar="A B...", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Compare runs: their costs at equal loss of accuracy, their fronts and their jobs.

    autocompress compare results/one results/other
    """
    from autocompress.report import compared
    from autocompress.results.comparison import compare

    found = compare(*run_folders)
    if as_json:
        print(json.dumps(compared.as_json(found), indent=2, default=str))
        return
    print_table(Console(), compared.tables(found))

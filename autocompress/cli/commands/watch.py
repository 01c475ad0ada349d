"""``autocompress watch``: follows a search from another terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli.options import Run


def watch(
    run_folder: Run,
    once: Annotated[bool, typer.Option("--once", help="Print the progress of the search once.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two updates.", min=0.1, max=3600)] = 1.0,
) -> None:
    """Follow a search from another terminal: phase, workers, time left and current front.

    It ends with the search. On a pipe it prints a line for each trial and note.

    autocompress watch results/demo
    """
    from autocompress.cli.following import follow

    follow(run_folder, once=once, every=every)

"""``autocompress report``: writes the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.cli.options import Run
from autocompress.cli.output import one_line, say


def report(
    run_folder: Run,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="File of benchmarks/search_quality.py (JSON). The page then shows its hypervolumes, too.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write report.html, report.md and front.png of a run again."""
    from autocompress.files import full_disk_told
    from autocompress.report import write_report

    with full_disk_told(run_folder):
        write_report(run_folder, benchmark)
    say(Console(), f"wrote {one_line(run_folder / 'report.html')}")

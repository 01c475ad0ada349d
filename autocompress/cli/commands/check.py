"""``autocompress check``: a model against a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.cli.options import Json, OwnPlugins
from autocompress.cli.output import print_table, say
from autocompress.errors import UserError

if TYPE_CHECKING:
    from autocompress.checking import Checked


def check(
    subject: Annotated[
        Path, typer.Argument(help="An ONNX file, or the folder of a run.", metavar="MODEL.onnx|RUN", show_default=False)
    ],
    budget: Annotated[Path, typer.Option(help="Budget file (YAML) with the limits.", show_default=False)],
    trial: Annotated[
        int | None, typer.Option(help="Trial of a run. Default: the recommended one.", show_default=False)
    ] = None,
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table, for the summary of a CI job.")
    ] = False,
    plugins: OwnPlugins = None,
) -> None:
    """Check a model against a budget of accuracy, latency, size and operators, for CI.

    Exit codes: 0 if all limits are met, 4 if one is missed, 3 if noise leaves one undecided.

    autocompress check model.onnx --budget budget.yaml --json
    """
    from autocompress.checking.limits import read_limits
    from autocompress.report.markdown import plain

    del plugins  # the option's callback loads them
    limits = read_limits(budget)
    if not subject.exists():
        raise UserError(f"there is no file {subject}", "give an ONNX file, or the folder of a run")
    if subject.is_dir():
        from autocompress.results import read

        run = read(subject)
        if trial is not None and not run.front.empty:
            run.artifact(trial)
    from autocompress.checking import check as checked  # here: it imports torch, which takes seconds

    found = checked(subject, limits, trial)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    elif as_markdown:
        print(_markdown(found))
    else:
        console = Console()
        print_table(console, _verdicts(found))
        say(console, f"{plain(found.subject, 1000)}: {found.verdict}\n{found.basis}".rstrip())
    raise typer.Exit(found.exit_code)


HEADINGS = ("verdict", "what", "limit", "found", "note")


def _cells(found: Checked) -> list[list[str]]:
    return [[one.verdict.upper(), one.name.replace("_", " "), one.limit, one.found, one.note] for one in found.judged]


def _verdicts(found: Checked) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for cells in _cells(found):
        table.add_row(*map(Text, cells))
    return table


def _markdown(found: Checked) -> str:
    from autocompress.report.markdown import escaped, table

    head = f"**{escaped(found.subject)}: {found.verdict}**"
    return f"{head}\n\n{table(HEADINGS, _cells(found), left=len(HEADINGS))}\n{escaped(found.basis, 400)}".rstrip()

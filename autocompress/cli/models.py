"""Commands about models: export, measure, check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.cli.options import OwnPlugins

if TYPE_CHECKING:
    from autocompress.checking import Checked
    from autocompress.delivery import Delivered
    from autocompress.devices import Compared

Run = Annotated[Path, typer.Argument(help="Folder of a run, results/NAME.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def export(
    run_folder: Run,
    to: Annotated[Path, typer.Option(help="New folder to write.", metavar="DIR", show_default=False)],
    trial: Annotated[
        int | None, typer.Option(help="Trial whose model is written. Default: the recommended one.", show_default=False)
    ] = None,
    pt2: Annotated[bool, typer.Option("--pt2", help="Also write model.pt2, torch.export's program.")] = False,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Also write the weights, with plan.json and recipe.json.")
    ] = False,
    check_images: Annotated[
        int, typer.Option(help="Images on which the written script is tried; 0 for none.", min=0)
    ] = 500,
) -> None:
    """Write one model of a run as a folder: ONNX file, model card, script and preprocessing.

    The script labels pictures without autocompress.

    autocompress export results/demo --to demo-model
    """
    from autocompress.delivery import export_model

    delivered = export_model(run_folder, to, trial, pt2=pt2, safetensors=safetensors, images=check_images)
    say(Console(), _delivered(delivered))


def _delivered(delivered: Delivered) -> str:
    from autocompress.report.markdown import plain

    text = f"wrote {plain(delivered.folder, 1000)}: trial {delivered.trial}, {', '.join(delivered.files)}"
    check = delivered.check
    if check is None:
        return f"{text}\ninfer.py was not tried"
    of = f"{check.pictures} {check.of}"
    text += f"\ninfer.py labels {check.equal} of {of} as the search did"
    return text if check.accuracy is None else f"{text}; {check.accuracy:.2f} % of them are right"


def measure(
    reference: Annotated[Path, typer.Argument(help="The file to compare with.", metavar="A.onnx", show_default=False)],
    others: Annotated[list[Path], typer.Argument(help="Other files.", metavar="B.onnx...", show_default=False)],
    device: Annotated[str, typer.Option(help="Device; see 'autocompress plugins'.")] = "onnxruntime-cpu",
    threads: Annotated[int, typer.Option(help="Number of threads on the device.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Images a run.", min=1)] = 1,
    input_size: Annotated[
        int | None,
        typer.Option(help="Height and width, where a file leaves them open.", metavar="PIXELS", min=8),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of measuring for each pair.", min=0.1, max=3600)] = 3.0,
    plugins: OwnPlugins = None,
    as_json: Json = False,
) -> None:
    """Compare the latency of ONNX files, run alternately, as ratios with 95 % intervals.

    The files need not come from autocompress.

    autocompress measure float.onnx int8.onnx
    """
    from autocompress.devices import compare_files

    del plugins  # the option's callback loads them
    found = compare_files(
        reference, *others, device=device, threads=threads, batch=batch, input_size=input_size, seconds=seconds
    )
    if as_json:
        print(json.dumps({"reference": str(reference), "files": [_as_json(one) for one in found]}, indent=2))
        return
    console = Console()
    console.print(_table(reference, found))
    for one in found:
        if one.measurement.noisy:
            say(console, f"note: {one.file} was measured with too much noise; measure again on an idle machine")


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
    from autocompress.checking import check as checked
    from autocompress.report.markdown import plain

    del plugins  # the option's callback loads them
    found = checked(subject, budget, trial)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    elif as_markdown:
        print(_markdown(found))
    else:
        console = Console()
        console.print(_verdicts(found))
        say(console, f"{plain(found.subject, 1000)}: {found.verdict}\n{found.policy}")
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
    return f"{head}\n\n{table(HEADINGS, _cells(found), left=len(HEADINGS))}\n{escaped(found.policy, 400)}"


def _as_json(one: Compared) -> dict[str, object]:
    told = one.measurement
    return {
        "file": str(one.file),
        "latency_ratio": told.latency_ratio,
        "latency_ratio_low": told.ratio_low,
        "latency_ratio_high": told.ratio_high,
        "latency_ms": told.latency_ms,
        "reference_ms": told.baseline_ms,
        "noisy": told.noisy,
        "environment": told.environment,
    }


def _table(reference: Path, found: list[Compared]) -> Table:
    from autocompress.report import words

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("latency", "95 % interval", "ms", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    first = found[0].measurement.baseline_ms
    cells = [words.ratio(1.0), "", words.milliseconds(first), words.size(reference.stat().st_size), str(reference)]
    table.add_row(*map(Text, cells), style="dim")
    for one in found:
        told = one.measurement
        interval = f"{words.ratio(told.ratio_low)} to {words.ratio(told.ratio_high)}"
        cells = [words.ratio(told.latency_ratio), interval, words.milliseconds(told.latency_ms)]
        table.add_row(*map(Text, [*cells, words.size(one.file.stat().st_size), str(one.file)]))
    return table


def say(console: Console, text: str) -> None:
    """Prints ``text`` without markup, highlighting or wrapping of lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)

"""``autocompress measure``: latency of ONNX files, compared."""

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
    from autocompress.devices import Compared


def measure(
    reference: Annotated[Path, typer.Argument(help="The file to compare with.", metavar="A.onnx", show_default=False)],
    others: Annotated[list[Path], typer.Argument(help="Other files.", metavar="B.onnx...", show_default=False)],
    device: Annotated[str, typer.Option(help="Device; see 'autocompress plugins'.")] = "onnxruntime-cpu",
    threads: Annotated[int, typer.Option(help="Number of threads on the device.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Batch size on the device.", min=1)] = 1,
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
    del plugins  # the option's callback loads them
    for file in (reference, *others):
        if not file.is_file():
            raise UserError(f"there is no file {file}", "give the path of an ONNX file")
    from autocompress.devices import compare_files  # here: it imports torch, which takes seconds

    found = compare_files(
        reference, *others, device=device, threads=threads, batch=batch, input_size=input_size, seconds=seconds
    )
    if as_json:
        print(json.dumps({"reference": str(reference), "files": [_as_json(one) for one in found]}, indent=2))
        return
    console = Console()
    print_table(console, _table(reference, found))
    for one in found:
        if one.measurement.noisy:
            say(console, f"note: {one.file} was measured with too much noise; measure again on an idle machine")


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

"""``autocompress debug``: the layers where a compressed network differs from its baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.cli.options import Json, Run
from autocompress.cli.output import has_width, print_table, say

if TYPE_CHECKING:
    from autocompress.debugging import Debugged

HEADINGS = ("bits", "channels", "SNR, dB", "cosine", "KL here", "KL alone")
NARROW = ("SNR, dB", "KL alone")
WIDE = 78
"""Minimum number of columns of a terminal for all figures."""


def debug(
    run_folder: Run,
    trial: Annotated[
        int | None, typer.Option(help="Trial that has a model. Default: the recommended one.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(help="Validation images that run through both networks.", min=1)] = 32,
    as_json: Json = False,
) -> None:
    """Compare each layer's output in a compressed network with the float network.

    It names the first layer with a large difference. It also prints lines for the 'space' of a
    job that leave the worst layers unchanged. "KL here" is the divergence if the float network
    goes on with this output; "KL alone" is that of a network in which only this layer is changed.

    autocompress debug results/demo
    """
    from autocompress.debugging.artifacts import chosen
    from autocompress.results import read

    chosen(read(run_folder), trial)
    from autocompress.cli.progress import waiting
    from autocompress.debugging import debug as debugged  # here: it imports torch, which takes seconds

    console = Console()
    with waiting(console) as progress:
        found = debugged(run_folder, trial, images=images, progress=progress)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print_table(console, _table(found, is_narrow=has_width(console) and console.width < WIDE))
    for line in _sentences(found):
        say(console, line)


def _table(found: Debugged, *, is_narrow: bool) -> Table:
    """The layers; in a narrow terminal with the figures that decide."""
    from autocompress.report import words

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("layer", overflow="fold")
    shown = NARROW if is_narrow else HEADINGS
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found.layers:
        cells = [
            found.bits.get(one.layer, "float"),
            str(one.kept) if one.kept == one.channels else f"{one.kept} of {one.channels}",
            "exact" if one.snr_db == float("inf") else f"{one.snr_db:.1f}",
            f"{one.cosine:.3f}",
            f"{one.kl:.2g}",
            words.MISSING if one.own_kl is None else f"{one.own_kl:.2g}",
        ]
        told = [cell for heading, cell in zip(HEADINGS, cells, strict=True) if heading in shown]
        table.add_row(*map(Text, [one.layer, *told]), style="bold" if one.layer == found.parted else "")
    return table


def _sentences(found: Debugged) -> list[str]:
    told = [
        f"trial {found.trial} on {found.images}: {found.equal:.1f} % get the baseline's label; KL of the logits "
        f"{found.kl:.3g} nats",
        "no layer has an SNR below 10 dB"
        if found.parted is None
        else f"{found.parted} is the first layer with an SNR below 10 dB",
    ]
    if found.others:
        told.append(f"not compared, since they were replaced: {', '.join(found.others)}")
    if found.exclusions:
        told += [
            "to leave the worst layers alone, add to the job:",
            "space:",
            *(f"  {one}" for one in found.exclusions),
        ]
    return told

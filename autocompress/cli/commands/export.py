"""``autocompress export``: one model of a run as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autocompress.cli.options import Run
from autocompress.cli.output import say

if TYPE_CHECKING:
    from autocompress.delivery import Delivered


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
    from autocompress.delivery.asked import asked

    asked(run_folder, to, trial)
    from autocompress.delivery import export_model  # here: it imports torch, which takes seconds

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
    return text if check.accuracy is None else f"{text}; {check.accuracy:.2f} % of its labels are right"

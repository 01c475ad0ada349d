"""The flags of ``autocompress search``: one for each key of a job that people set often, ``--set`` for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.errors import UserError
from autocompress.job.yamlfile import parse_value

_WHAT, _WISH, _HOW, _SPEND = "What to compress", "What is wanted", "How to search", "What to spend"


def _flag(help_text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, metavar=metavar, show_default=False)


JobFile = Annotated[
    Path | None,
    typer.Argument(help="Job file (YAML); flags override its keys.", metavar="[JOB.yaml]", show_default=False),
]

Model = Annotated[str | None, _flag("Any timm model.", _WHAT)]
Data = Annotated[str | None, _flag("digits, glyphs, folder:PATH, or any name timm takes (torch/cifar10).", _WHAT)]
Pretrained = Annotated[bool | None, typer.Option(help="Start from timm's weights.", rich_help_panel=_WHAT)]
Checkpoint = Annotated[Path | None, _flag("Start from a local checkpoint.", _WHAT)]

AccuracyDrop = Annotated[float | None, _flag("Accuracy that may be lost, in points.", _WISH, "POINTS")]
Latency = Annotated[str | None, _flag("At most so slow: 0.5x, '4 ms'.", _WISH, "BOUND")]
Size = Annotated[str | None, _flag("At most so large on disk: 0.25x, '2 MB'.", _WISH, "BOUND")]
Energy = Annotated[str | None, _flag("At most so much energy an image: 0.5x, '50 uJ'.", _WISH, "BOUND")]
Macs = Annotated[str | None, _flag("At most so many multiply-adds: 0.5x, '20 M'.", _WISH, "BOUND")]
Params = Annotated[str | None, _flag("At most so many parameters: 0.5x, '300 k'.", _WISH, "BOUND")]
Objectives = Annotated[str | None, _flag("What to trade: accuracy,latency,size,energy,macs.", _WISH, "LIST")]

DeviceName = Annotated[str | None, _flag("Where latency is measured.", _HOW)]
Threads = Annotated[int | None, _flag("Threads of the device.", _HOW)]
Batch = Annotated[int | None, _flag("Images at a time on the device.", _HOW)]
InputSize = Annotated[int | None, _flag("Height and width of an image on the device.", _HOW, "PIXELS")]
CostModel = Annotated[str | None, _flag("Where energy comes from.", _HOW)]
Methods = Annotated[str | None, _flag("Methods that may act; all that apply by default.", _HOW, "LIST")]
SpaceName = Annotated[str | None, _flag("A ready-made space, a path, or 'default'.", _HOW)]
Granularity = Annotated[str | None, _flag("Choose for the whole model, each stage, or each block.", _HOW)]
Sampler = Annotated[str | None, _flag("tpe, nsga2, gp or random.", _HOW)]
Workers = Annotated[int | None, _flag("Trials at a time.", _HOW)]
Seed = Annotated[int | None, _flag("Of every random draw.", _HOW)]

Trials = Annotated[int | None, _flag("Recipes to try.", _SPEND)]
Minutes = Annotated[float | None, _flag("Minutes to search.", _SPEND)]
Epochs = Annotated[int | None, _flag("Most epochs that one trial trains.", _SPEND)]
TrialMinutes = Annotated[float | None, _flag("A trial is ended after so many minutes.", _SPEND)]

Name = Annotated[str | None, _flag("Of the run; by default <model>-<data>.", "The run")]
Results = Annotated[Path | None, _flag("Folder of runs; by default results.", "The run")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any key of a job: --set baseline.epochs=20. May be repeated.",
        rich_help_panel="The run",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the job, the methods and what is within reach; search nothing."),
]

_LISTS = ("objectives", "methods")


def settings(flags: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """What ``load_job`` takes, from the flags' values and the ``--set`` assignments.

    Raises:
        UserError: for an assignment without ``=``.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    for key in _LISTS:
        if key in given:
            given[key] = [name.strip() for name in given[key].split(",") if name.strip()]
    for text in assignments or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--set {text} has no value", "write --set KEY=VALUE")
        if key in given:
            raise UserError(f"'{key}' is set twice", "give it once")
        given[key] = parse_value(value)
    return given

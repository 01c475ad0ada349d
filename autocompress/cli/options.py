"""Flags of several commands, and those of ``search``: common keys of a job, and ``--set``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.cli.plugin_commands import add_files, with_earlier
from autocompress.errors import UserError
from autocompress.job.yamlfile import parse_value

_WHAT, _WISH, _HOW, _SPEND = "Model and data", "Constraints and objectives", "Search", "Budget"


def _flag(help_text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, metavar=metavar, show_default=False)


def _plugins(help_text: str, callback: Callable[..., Any], panel: str | None = None, *, is_eager: bool = False) -> Any:
    return typer.Option(
        "--plugin",
        help=help_text,
        rich_help_panel=panel,
        metavar="FILE",
        show_default=False,
        callback=callback,
        is_eager=is_eager,
    )


Run = Annotated[Path, typer.Argument(help="Folder of a run, results/NAME.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

JobFile = Annotated[
    Path | None,
    typer.Argument(help="Job file (YAML); flags override its keys.", metavar="[JOB.yaml]", show_default=False),
]

Model = Annotated[str | None, _flag("Model name, as in timm: resnet18, resnet18.a1_in1k.", _WHAT)]
Data = Annotated[
    str | None, _flag("Data set: digits, glyphs, folder:PATH, timm's name (torch/cifar10) or none.", _WHAT)
]
Task = Annotated[str | None, _flag("Task: classification, multilabel, or a class of your own, module:Class.", _WHAT)]
TrainImages = Annotated[int | None, _flag("Number of training images to use, drawn evenly from the classes.", _WHAT)]
ValImages = Annotated[
    int | None,
    _flag("Number of validation images for trials. The final models are judged on the whole validation set.", _WHAT),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        help="Start from timm's pretrained weights, instead of training a baseline first.", rich_help_panel=_WHAT
    ),
]
Checkpoint = Annotated[Path | None, _flag("Start from the weights in a local checkpoint file.", _WHAT)]

AccuracyDrop = Annotated[float | None, _flag("Maximum loss of accuracy, in percentage points.", _WISH, "POINTS")]
Latency = Annotated[str | None, _flag("Maximum latency: 0.5x (of the baseline's) or '4 ms'.", _WISH, "BOUND")]
Size = Annotated[str | None, _flag("Maximum size of the ONNX file: 0.25x, '2 MB'.", _WISH, "BOUND")]
Energy = Annotated[str | None, _flag("Maximum energy per image: 0.5x, '50 uJ'.", _WISH, "BOUND")]
Macs = Annotated[str | None, _flag("Maximum number of multiply-adds per image: 0.5x, '20 M'.", _WISH, "BOUND")]
Params = Annotated[str | None, _flag("Maximum number of parameters: 0.5x, '300 k'.", _WISH, "BOUND")]
Objectives = Annotated[str | None, _flag("Objectives: accuracy,latency,size,energy,macs.", _WISH, "LIST")]

DeviceName = Annotated[str | None, _flag("Device on which latency is measured; see 'autocompress plugins'.", _HOW)]
Threads = Annotated[int | None, _flag("Number of threads on the device.", _HOW)]
Batch = Annotated[int | None, _flag("Batch size on the device.", _HOW)]
InputSize = Annotated[int | None, _flag("Height and width of the input images.", _HOW, "PIXELS")]
CostModel = Annotated[str | None, _flag("Cost model for energy: a name or a YAML file.", _HOW)]
Methods = Annotated[str | None, _flag("Methods to use. Default: all that apply to the model.", _HOW, "LIST")]
SpaceName = Annotated[str | None, _flag("Search space: the name of a ready-made one, a YAML file, or 'default'.", _HOW)]
Granularity = Annotated[str | None, _flag("Scope of one parameter: model, stage or block.", _HOW)]
Sampler = Annotated[str | None, _flag("Sampler: tpe, nsga2, gp, random, or one of a plugin.", _HOW)]
RecipesFrom = Annotated[
    Path | None,
    typer.Option(
        "--from",
        "--recipes-from",
        help="Try the recipes of an earlier run first, and measure them again.",
        rich_help_panel=_HOW,
        metavar="RUN",
        show_default=False,
    ),
]
Plugins = Annotated[
    list[Path] | None, _plugins("Python file with plugin hooks. May be given several times.", with_earlier, _HOW)
]
OwnPlugins = Annotated[
    list[Path] | None,
    _plugins(
        "Python file with plugin hooks. It need not be installed. May be given several times.",
        add_files,
        is_eager=True,
    ),
]
"""The option of commands without a job."""
Workers = Annotated[int | None, _flag("Number of trials that run at the same time.", _HOW)]
Address = Annotated[
    str | None,
    _flag("Ray cluster whose nodes run the workers: HOST:PORT of its head, auto, or local.", _HOW, "ADDRESS"),
]
Seed = Annotated[int | None, _flag("Random seed.", _HOW)]

Trials = Annotated[int | None, _flag("Maximum number of trials.", _SPEND)]
Minutes = Annotated[float | None, _flag("Maximum duration of the search, in minutes.", _SPEND)]
Epochs = Annotated[
    float | None,
    _flag("Maximum number of training epochs per trial; rungs take 100 and 400 steps if that is more.", _SPEND),
]
TrialMinutes = Annotated[float | None, _flag("Maximum duration of one trial, in minutes.", _SPEND)]
Stall = Annotated[
    int | None, _flag("End after this number of finished trials without a gain in hypervolume.", _SPEND, "TRIALS")
]
UntilMet = Annotated[
    bool | None,
    typer.Option("--until-met", help="End as soon as one trial meets all constraints.", rich_help_panel=_SPEND),
]

Name = Annotated[str | None, _flag("Name of the run. Default: <model>-<data>.", "Output")]
Results = Annotated[Path | None, _flag("Folder in which runs are stored. Default: results.", "Output")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Set any key of a job: --set baseline.epochs=20. May be given several times.",
        rich_help_panel="Output",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the job, the methods that apply and which constraints can be met, then exit. Trains nothing.",
    ),
]

Restartable = Annotated[
    bool,
    typer.Option(
        "--restartable",
        help="For batch systems, which start a lost search again: resume the run if it exists, and exit with 0 even "
        "if no model fits.",
    ),
]

_LISTS = ("objectives", "methods")


def settings(flags: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """The settings for ``load_job``, from the flags' values and the ``--set`` assignments.

    Raises:
        UserError: for an assignment without a key or without ``=``.
    """
    given = {key: value for key, value in flags.items() if value is not None and value != []}
    for key in _LISTS:
        if key in given:
            given[key] = [name.strip() for name in given[key].split(",") if name.strip()]
    for text in assignments or []:
        key, equals, value = text.partition("=")
        if equals and not key.strip():
            raise UserError(f"--set {text}: the key is missing", "write --set KEY=VALUE")
        if not equals:
            raise UserError(f"--set {text} has no value", "write --set KEY=VALUE")
        if key in given:
            raise UserError(f"'{key}' is set twice", "give it once")
        given[key] = parse_value(value)
    return given

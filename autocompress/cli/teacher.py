"""The flags that name a trained model, for ``synthesize`` and ``similarity``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.errors import UserError
from autocompress.job import Job, check_model_name, load_job

OF_MODEL = "model_args."
"""Keys of ``--set`` for values that a checkpoint does not store: mean, std, img_size."""

Model = Annotated[str, typer.Option(help="Model name, as in timm.", show_default=False)]
Checkpoint = Annotated[Path | None, typer.Option(help="Local checkpoint file with the weights.", show_default=False)]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Use timm's pretrained weights.")]
InputSize = Annotated[
    int | None,
    typer.Option(help="Height and width of the images. A checkpoint does not store it.", metavar="PIXELS"),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Images = Annotated[int, typer.Option(help="Number of images.", min=1)]


def job_of(
    model: str,
    checkpoint: Path | None,
    pretrained: bool,
    input_size: int | None,
    seed: int,
    given: Mapping[str, Any],
) -> Job:
    """The job of a model with trained weights and without data.

    Args:
        given: the values of ``--set``; only those that begin with ``model_args.`` are used.

    Raises:
        UserError: if there are no weights, or the model is unknown.
    """
    if checkpoint is None and not pretrained:
        raise UserError("the model has no trained weights", "give --checkpoint PATH or --pretrained")
    settings = {"model": model, "checkpoint": checkpoint, "pretrained": pretrained or None, "input_size": input_size}
    of_model = {key: value for key, value in given.items() if key.startswith(OF_MODEL)}
    job = load_job(settings={**settings, **of_model, "data": "none", "seed": seed}, flags=True)
    check_model_name(job)

    from autocompress.contract import manager
    from autocompress.job import validate

    validate(job, manager())
    return job

"""``autocompress similarity``: data sets compared with the training data of a model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from autocompress.cli import options
from autocompress.cli.output import print_table, say
from autocompress.cli.teacher import OF_MODEL, Checkpoint, Images, InputSize, Model, Pretrained, Seed, job_of
from autocompress.errors import UserError

Divergence = Literal["measured", "recorded"]
"""The type in ``synthesis.terms_gaussian``, whose import would import torch."""


def similarity(
    model: Model,
    data: Annotated[
        list[str],
        typer.Argument(
            help="Data sets: digits, glyphs, folder:PATH, or timm's names.",
            metavar="DATA...",
            show_default=False,
        ),
    ],
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    images: Images = 1000,
    input_size: InputSize = None,
    seed: Seed = 0,
    divergence: Annotated[
        Divergence, typer.Option(help="Direction of the KL divergence: 'measured' is KL(measured || recorded).")
    ] = "measured",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A value that a checkpoint does not store: model_args.mean=[0.5].",
            metavar="KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    plugins: options.OwnPlugins = None,
) -> None:
    """Compare data sets with the training data of a model, from its batch norms.

    The original data is not needed.

    autocompress similarity --model resnet18 --pretrained folder:photos folder:drawings
    """
    del plugins  # the option's callback loads them
    given = options.settings({}, assignments)
    for key in given:
        if not key.startswith(OF_MODEL):
            raise UserError(f"--set {key} means nothing here", f"only {OF_MODEL}mean, std and the like can be set")
    job = job_of(model, checkpoint, pretrained, input_size, seed, given)

    from autocompress import models
    from autocompress.cli.similarity_table import rows_of, table_of
    from autocompress.synthesis import reasons_against_statistics

    teacher = models.create(job)
    if reasons := reasons_against_statistics(teacher):
        raise UserError(f"J cannot be computed for {job.model}: {reasons[0]}")
    console = Console()
    rows, size, notes = rows_of(teacher, job, data, images, console, divergence)
    print_table(console, table_of(rows, job.model))
    for note in notes:
        say(console, f"note: {note}")
    own = "" if input_size or pretrained else f", the size of {data[0]} (--input-size for another)"
    say(console, f"images were read at {size[0]}x{size[1]}{own};")
    say(console, "J only compares data sets, on one model and at one image size;")
    say(console, "even images of the right kind score above 0, by about 1 / images in deep layers")

"""``autocompress new-plugin``: a package for a new plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the new method, device or other part.", metavar="NAME")],
    kind: Annotated[
        str,
        typer.Option(
            help="pruner, transform, quantizer, source, device, dataset, observer, sampler, command, task.",
            metavar="KIND",
        ),
    ] = "transform",
    to: Annotated[Path, typer.Option(help="Folder in which the package is made.", metavar="DIR")] = Path(),
) -> None:
    """Write a package for a new plugin: an example to change, its test and a workflow for CI."""
    from autocompress.authoring.scaffold import new_plugin as write

    for file in write(name, kind, to):
        print(f"wrote {file}")

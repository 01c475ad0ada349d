"""``autocompress new-plugin`` and ``check-plugin``: for authors of plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autocompress.errors import ExitCode


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the new method, device or other part.", metavar="NAME")],
    kind: Annotated[
        str,
        typer.Option(
            help="pruner, transform, quantizer, source, device, dataset, observer, sampler, command.", metavar="KIND"
        ),
    ] = "transform",
    to: Annotated[Path, typer.Option(help="Folder in which the package is made.", metavar="DIR")] = Path(),
) -> None:
    """Write a package for a new plugin: an example to change, its test and a workflow for CI."""
    from autocompress.authoring.scaffold import new_plugin as write

    for file in write(name, kind, to):
        print(f"wrote {file}")


def check_plugin(
    plugin: Annotated[str, typer.Argument(help="Name of an installed plugin, or a Python file.", metavar="PLUGIN")],
) -> None:
    """Check that a plugin keeps the rules of the contract. All broken rules are printed."""
    from autocompress import authoring
    from autocompress.testing import ContractViolation

    console = Console()
    try:
        checked = authoring.check_plugin(authoring.module_of(plugin))
    except ContractViolation as violation:
        for rule in violation.rules:
            console.print(f"broken: {rule}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(ExitCode.WRONG_USE) from None
    for item in checked or ["hooks"]:
        console.print(f"checked: {item}", markup=False, highlight=False, soft_wrap=True)

"""``autocompress check-plugin``: whether a plugin keeps the rules of the contract."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from autocompress.errors import ExitCode


def check_plugin(
    plugin: Annotated[str, typer.Argument(help="Name of an installed plugin, or a Python file.", metavar="PLUGIN")],
) -> None:
    """Check that a plugin keeps the rules of the contract. All broken rules are printed."""
    from autocompress import authoring
    from autocompress.testing import ContractViolation

    console, unchecked = Console(), list[str]()
    try:
        checked = authoring.check_plugin(authoring.module_of(plugin), tell=unchecked.append)
    except ContractViolation as violation:
        for rule in violation.rules:
            console.print(f"broken: {rule}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(ExitCode.WRONG_USE) from None
    finally:
        for item in unchecked:
            console.print(f"not checked: {item}", markup=False, highlight=False, soft_wrap=True)
    for item in checked or ([] if unchecked else ["hooks"]):
        console.print(f"checked: {item}", markup=False, highlight=False, soft_wrap=True)

"""Tables, plots and the HTML page of a run, made only from its files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.report.page import write_report
    from autocompress.report.table import front_table

__all__ = ["front_table", "write_report"]

_HOMES = {"front_table": "table", "write_report": "page"}


def __getattr__(name: str) -> Any:
    """Imports names on first use, because a dry run needs neither pandas nor plots."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

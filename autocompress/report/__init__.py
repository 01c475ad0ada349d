"""Tables, plots and the HTML page of a run, made only from its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

if TYPE_CHECKING:
    from autocompress.report.page import write_report
    from autocompress.report.table import front_table

__all__ = ["front_table", "write_report"]

_HOMES = {"front_table": "table", "write_report": "page"}

__getattr__ = importer(__name__, _HOMES)

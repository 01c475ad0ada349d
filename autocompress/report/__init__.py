"""Fronts, intervals, tables, plots and the HTML page of a run; made from its files alone."""

from autocompress.report.page import write_report
from autocompress.report.table import front_table

__all__ = ["front_table", "write_report"]

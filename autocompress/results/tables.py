"""Writes and reads the CSV files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.errors import UserError
from autocompress.files import atomic
from autocompress.results.columns import (
    BASELINE,
    COLUMNS,
    FRONT_COLUMNS,
    LATER,
    SENSITIVITY_COLUMNS,
    TABLE_COLUMNS,
    frame,
)

TRIALS_FILE, FRONT_FILE, SENSITIVITY_FILE, TABLES_FILE = "trials.csv", "front.csv", "sensitivity.csv", "tables.csv"


def write_trials(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``trials.csv`` atomically; ``rows`` are in the order of the study."""
    _write(folder / TRIALS_FILE, frame(rows, COLUMNS))


def write_front(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``front.csv`` atomically; the first row must be the baseline (status ``baseline``).

    Raises:
        ValueError: if the first row is not the baseline.
    """
    table = frame(rows, FRONT_COLUMNS)
    if table.empty or table["status"].iloc[0] != BASELINE:
        raise ValueError("the first row of the front must be the baseline")
    _write(folder / FRONT_FILE, table)


def write_sensitivity(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``sensitivity.csv`` atomically."""
    _write(folder / SENSITIVITY_FILE, frame(rows, SENSITIVITY_COLUMNS))


def write_tables(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``tables.csv`` atomically, from rows of ``proposals.Table.rows``."""
    _write(folder / TABLES_FILE, frame(rows, TABLE_COLUMNS))


def _write(path: Path, table: pd.DataFrame) -> None:
    if "recipe" in table:
        table = table.assign(recipe=table["recipe"].map(json.dumps))
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_trials(folder: Path) -> pd.DataFrame:
    """``trials.csv`` as a typed data frame; empty while the file does not exist."""
    return _read(folder / TRIALS_FILE, COLUMNS)


def read_front(folder: Path) -> pd.DataFrame:
    """``front.csv`` as a typed data frame, the baseline first; empty while it does not exist."""
    return _read(folder / FRONT_FILE, FRONT_COLUMNS)


def read_sensitivity(folder: Path) -> pd.DataFrame:
    """``sensitivity.csv`` as a typed data frame; empty if the run has none."""
    return _read(folder / SENSITIVITY_FILE, SENSITIVITY_COLUMNS)


def read_tables(folder: Path) -> pd.DataFrame:
    """``tables.csv`` as a typed data frame; empty if the run has none."""
    return _read(folder / TABLES_FILE, TABLE_COLUMNS)


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.exists():
        return frame([], columns)
    try:
        # As text first, because pandas would read "None" and "nan" in a reason as missing values.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [column for column in columns if column not in {*table.columns, *LATER, "group"}]:
            raise ValueError(f"column '{missing[0]}' is missing")
        table = table.reindex(columns=list(columns), fill_value="")
        return frame([_parse(row) for row in table.to_dict("records")], columns)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "the files of a run must not be changed") from error


def _parse(row: Mapping[Any, str]) -> dict[str, Any]:
    values: dict[str, Any] = {column: text for column, text in row.items() if text != ""}
    if "recipe" in values:
        values["recipe"] = json.loads(values["recipe"])
    return values

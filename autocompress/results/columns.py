"""The names and types of a run's columns, and rows as typed frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from autocompress.objectives.quantities import QUANTITIES

Row = dict[str, Any]
"""A trial's row: the columns of trials.csv and what the engine keeps beside them, JSON values
only."""

STATUSES = ("complete", "stopped", "infeasible", "failed")
"""Status of a trial. ``stopped``: halving ended it; ``infeasible``: a gate did; ``failed``: it
broke."""
INTERRUPTED = "interrupted"
"""``ended`` in the summary of a search that Ctrl-C ended: its front was neither measured again nor
scored on test."""
BASELINE = "baseline"
"""Status of the first row of front.csv, which has no trial number."""

_COSTS = {
    column: "Int64" if quantity.is_whole else "float64"
    for quantity in QUANTITIES
    if quantity.name not in ("accuracy", "accuracy_drop")
    for column in (quantity.column, quantity.ratio_column)
    if column
}
_FIRST_COSTS = ("latency_ms", "latency_ratio", "size_bytes", "params", "macs", "energy_uj")
"""Costs that every version wrote, in the order of the file. Later ones follow in the order of
``QUANTITIES``."""
_DTYPES = {
    "trial": "Int64",
    "status": "string",
    "reason": "string",
    "accuracy": "float64",
    "accuracy_drop": "float64",
    "agreement": "float64",
    **{column: _COSTS[column] for column in (*_FIRST_COSTS, *_COSTS)},
    "seconds": "float64",
    "rung": "Int64",
    "recipe": "object",
    "artifact": "string",
}
_FRONT_DTYPES = _DTYPES | {
    "test_accuracy": "float64",
    "test_accuracy_drop": "float64",
    "latency_ratio_low": "float64",
    "latency_ratio_high": "float64",
    "size_ratio": "float64",
    "energy_ratio": "float64",
}
_SENSITIVITY_DTYPES = {
    "group": "string",
    "role": "string",
    "quantizer": "string",
    "bits": "Int64",
    "loss": "float64",
    "agreement": "float64",
}
_TABLE_DTYPES = {
    "axis": "string",
    "name": "string",
    "group": "string",
    "choice": "float64",
    "divergence": "float64",
    "measured": "boolean",
    "scale": "float64",
}
COLUMNS: tuple[str, ...] = tuple(_DTYPES)
"""Columns of trials.csv. Accuracies in percent, drops in points, ``recipe`` a dict (JSON in the
file), ``artifact`` a path relative to the run's folder or empty. ``agreement`` is empty but in runs
that judge without labelled images: there it is the percent of held-out images on which a model
answers as the baseline does, ``accuracy`` is the same figure, and ``accuracy_drop`` is what
is missing to 100."""
LATER = frozenset({"agreement", *_COSTS} - {*_FIRST_COSTS})
"""Columns that older runs lack."""
FRONT_COLUMNS: tuple[str, ...] = tuple(_FRONT_DTYPES)
"""Columns of front.csv."""
NUMBERS = tuple(name for name, dtype in _FRONT_DTYPES.items() if dtype not in ("string", "object"))
"""Columns of front.csv that hold numbers."""
SENSITIVITY_COLUMNS: tuple[str, ...] = tuple(_SENSITIVITY_DTYPES)
"""Columns of sensitivity.csv. ``role`` is "weight" or "activation". Where this group alone has
these bits, ``loss`` is the mean Kullback-Leibler divergence from the baseline's class probabilities
in nats, ``agreement`` the percent of equal labels."""

TABLE_COLUMNS: tuple[str, ...] = tuple(_TABLE_DTYPES)
"""Columns of tables.csv, a row a choice of each part. ``axis`` is "structure" (``name`` is a
coupling, ``choice`` the share of its channels that stays), "weight bits" or "activation bits"
(``name`` is a group). ``divergence`` is what this choice alone loses, in nats; ``measured`` whether
it was measured or interpolated; ``scale`` what pairs of neighbours made of it."""


def frame(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS) -> pd.DataFrame:
    """Rows as a typed frame with exactly ``columns``.

    A missing text is empty, a missing recipe is ``{}``.

    Raises:
        ValueError: if a row has a key that is no column.
    """
    rows = list(rows)
    if unknown := {key for row in rows for key in row} - set(columns):
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    dtypes = _FRONT_DTYPES | _SENSITIVITY_DTYPES | _TABLE_DTYPES
    return pd.DataFrame({name: _column([row.get(name) for row in rows], dtypes[name]) for name in columns})


def _column(values: list[Any], dtype: str) -> pd.Series:
    if dtype == "string":
        return pd.Series([_text(value) for value in values], dtype="string")
    if dtype == "object":
        return pd.Series([value or {} for value in values], dtype=object)
    if dtype == "boolean":
        return pd.Series([str(value) == "True" for value in values], dtype="boolean")
    return pd.to_numeric(pd.Series(values, dtype=object)).astype(pd.api.types.pandas_dtype(dtype))


def _text(value: Any) -> str:
    """A text that fits a CSV file: no carriage returns and no broken characters."""
    text = "" if pd.isna(value) else str(value)
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")

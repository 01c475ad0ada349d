"""Names and types of the columns of a run, and typed data frames of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from autocompress.objectives.quantities import QUANTITIES

Row = dict[str, Any]
"""The row of a trial: the columns of trials.csv and further values of the engine, all JSON."""

STATUSES = ("complete", "infeasible", "failed")
"""Status of a trial.

A trial is ``complete``, ``infeasible`` (a gate ended it, or it misses a constraint) or ``failed``.
"""
INTERRUPTED = "interrupted"
"""``ended`` in the summary after Ctrl-C: the front was not measured again or tested."""
SHOWN_METRICS = ("noisy", "float_layers", "tap_crop", "accuracy_drop_interval", "test_accuracy_drop_interval")
"""Keys of an artifact's metrics.json that a report shows; the summary repeats them."""
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
"""Costs of all versions, in the order of the file. Later costs follow as in ``QUANTITIES``."""
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
    "accuracy_rung0": "float64",
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
"""Columns of trials.csv.

Accuracies are in percent and drops in points. ``recipe`` is a dict (JSON in the file). ``artifact``
is a path relative to the folder of the run, or empty. ``agreement`` is used in runs without
labelled validation images: the percent of held-out images with the same prediction as the baseline.
``accuracy`` is then the same figure, and ``accuracy_drop`` is the difference to 100.
``rung`` is the rung of the model in the row. ``accuracy_rung0`` is the accuracy before any rung
trained; it is empty if a recipe cannot be trained further.
"""
LATER = frozenset({"agreement", "accuracy_rung0", *_COSTS} - {*_FIRST_COSTS})
"""Columns that may be missing in older runs."""
FRONT_COLUMNS: tuple[str, ...] = tuple(_FRONT_DTYPES)
"""Columns of front.csv."""
NUMBERS = tuple(name for name, dtype in _FRONT_DTYPES.items() if dtype not in ("string", "object"))
"""Columns of front.csv that hold numbers."""
SENSITIVITY_COLUMNS: tuple[str, ...] = tuple(_SENSITIVITY_DTYPES)
"""Columns of sensitivity.csv, for one group with these bits and everything else in float.

``role`` is "weight" or "activation". ``loss`` is the mean Kullback-Leibler divergence from the
class probabilities of the baseline in nats. ``agreement`` is the percent of equal predictions.
"""

TABLE_COLUMNS: tuple[str, ...] = tuple(_TABLE_DTYPES)
"""Columns of tables.csv, with a row for each choice of each part.

``axis`` is "structure" (``name`` is a coupling, ``choice`` the share of channels to keep), "weight
bits" or "activation bits" (``name`` is a group). ``divergence`` is the loss of this choice alone in
nats. ``measured`` says whether it was measured or interpolated. ``scale`` is the factor from pairs
of neighbours.
"""


def frame(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS) -> pd.DataFrame:
    """A typed data frame of rows with exactly ``columns``.

    Missing text becomes an empty string, and a missing recipe ``{}``.

    Raises:
        ValueError: if a row has a key that is not a column.
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
    """``value`` as text for a CSV file: no carriage returns and no invalid characters."""
    text = "" if pd.isna(value) else str(value)
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")

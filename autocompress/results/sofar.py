"""The front of a run whose search is not over, from its finished trials."""

from __future__ import annotations

from typing import Any

import pandas as pd

from autocompress.objectives.fronts import front_rows
from autocompress.results.columns import FRONT_COLUMNS, frame
from autocompress.results.run import SearchResult


def models_so_far(result: SearchResult) -> pd.DataFrame:
    """The front's models, the most accurate first; columns ``FRONT_COLUMNS``.

    They are those of front.csv, or, while there is none, those of the trials that no other finished
    trial dominates, with the figures of their trials."""
    if len(result.front):
        return result.models
    rows = [_plain(row) for _, row in result.trials.iterrows()]
    objectives = [str(name) for name in result.job.get("objectives") or ("accuracy", "latency")]
    found = front_rows(objectives, rows, result.summary.get("baseline") or {})
    return frame(found, FRONT_COLUMNS)


def _plain(row: pd.Series) -> dict[str, Any]:
    """A row with None where a figure is missing."""
    return {str(name): value if isinstance(value, dict) or pd.notna(value) else None for name, value in row.items()}

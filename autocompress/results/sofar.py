"""The front of a run whose search is not over, from its finished trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from autocompress.objectives.fronts import front_rows
from autocompress.results.columns import FRONT_COLUMNS, frame
from autocompress.results.run import SearchResult
from autocompress.results.status import Status


def models_so_far(result: SearchResult, status: Status | None = None) -> pd.DataFrame:
    """The models of the front, the most accurate first; columns ``FRONT_COLUMNS``.

    If there is no front.csv yet, these are the non-dominated trials so far.

    Args:
        result: the run.
        status: status of the run. It has the baseline until summary.json is written.
    """
    if len(result.front):
        return result.models
    rows = [_plain(row) for _, row in result.trials.iterrows()]
    objectives = [str(name) for name in result.job.get("objectives") or ("accuracy", "latency")]
    found = front_rows(objectives, rows, baseline_so_far(result, status) or {})
    return frame(found, FRONT_COLUMNS)


def baseline_so_far(result: SearchResult, status: Status | None) -> Mapping[str, Any] | None:
    """The row of the baseline, with None for missing figures; None if it is not known yet."""
    return result.summary.get("baseline") or (status.baseline if status else None)


def _plain(row: pd.Series) -> dict[str, Any]:
    """A row with None for missing figures."""
    return {str(name): value if isinstance(value, dict) or pd.notna(value) else None for name, value in row.items()}

"""The nearest miss, finished: where every trial left before it was trained, the front still gets a
model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from autocompress.devices.lock import MachineLock
from autocompress.objectives.fronts import by_distance, front_rows
from autocompress.results import Row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import SearchableJob
from autocompress.searching.study import Study

MOST_TRIES = 3
"""Misses that are finished, one after another, where the nearest ones break."""
log = logging.getLogger("autocompress.search")


def finish_nearest_miss(
    study: Study,
    opened: SearchableJob,
    measurer: Measurer,
    folder: Path,
    progress: Callable[[float, str], None] | None = None,
) -> Row | None:
    """Runs the nearest miss again, unjudged by the gates, where no trial of ``study`` has an
    accuracy.

    Its row is amended: it stays infeasible, but has an accuracy and an artifact. Its reason names
    all that it misses, by the figures of its row.

    Returns:
        The new row; None where there was nothing to do, or nothing that could be finished.
    """
    rows = study.rows()
    if front_rows(study.job.objectives, rows, study.baseline):
        return None
    for missed in by_distance(rows)[:MOST_TRIES]:
        trial = Trial(opened, measurer, MachineLock(), missed["trial"], folder, study.baseline, progress, judge=False)
        row = trial.run(missed["recipe"], missed.get("label", ""))
        if row["status"] == "failed":
            log.warning("trial %d, the nearest miss, could not be finished: %s", row["trial"], row["reason"])
            continue
        row["seconds"] += missed["seconds"]
        study.amend(row["trial"], row)
        return row
    return None

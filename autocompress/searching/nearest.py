"""Finishes the nearest miss, so that the front has a model if all trials ended early."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from autocompress.devices.lock import MachineLock
from autocompress.objectives.figures import known
from autocompress.objectives.fronts import by_distance, fastest_within, front_rows, within_bar
from autocompress.recipes.choosers import Replay
from autocompress.results import Row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.modelfiles import accuracy_bar
from autocompress.searching.searchable import SearchableJob
from autocompress.searching.study import Study

MOST_TRIES = 3
"""Maximum number of misses that are tried, if the nearest ones fail."""
log = logging.getLogger("autocompress.search")


def finish_nearest_miss(
    study: Study,
    opened: SearchableJob,
    measurer: Measurer,
    folder: Path,
    progress: Callable[[float, str], None] | None = None,
) -> Row | None:
    """Runs the nearest miss again without gates, if no trial of ``study`` has an accuracy.

    Its row is amended: it stays infeasible, but has an accuracy and an artifact. Its reason names
    all bounds that it misses.

    Returns:
        The new row; None if a trial has an accuracy, or no miss could be finished.
    """
    rows = study.rows()
    if front_rows(study.job.objectives, rows, study.baseline):
        return None
    for missed in by_distance(rows)[:MOST_TRIES]:
        if (row := _finished(missed, study, opened, measurer, folder, progress)) is not None:
            return row
    return None


def finish_within_bar(
    study: Study,
    opened: SearchableJob,
    measurer: Measurer,
    folder: Path,
    progress: Callable[[float, str], None] | None = None,
) -> Row | None:
    """Looks for the fastest model within the accuracy bar, if no trial meets all constraints.

    Trials that missed a bound on a cost ended before their accuracy was known. Of those without
    training, a few are finished: first the middle one by latency. If it is within the bar, a faster
    one follows, else a slower one.

    Returns:
        The fastest row within the bar, finished here or before; None if there is none.
    """
    rows, bar = study.rows(), accuracy_bar(study.job)
    best = fastest_within(rows, bar)
    if any(row["status"] == "complete" for row in rows):
        return best
    limit = math.inf if best is None else best["latency_ratio"]
    open_rows = [row for row in by_distance(rows) if _is_open(row, limit) and not _trains(row, opened)]
    open_rows.sort(key=lambda row: row["latency_ratio"])
    for _ in range(MOST_TRIES):
        if not open_rows:
            break
        middle = len(open_rows) // 2
        row = _finished(open_rows[middle], study, opened, measurer, folder, progress)
        if row is None:
            del open_rows[middle]
        elif within_bar(row, bar):
            best, open_rows = row, open_rows[:middle]
        else:
            open_rows = open_rows[middle + 1 :]
    return best


def _is_open(row: Row, limit: float) -> bool:
    """Whether the accuracy of ``row`` is unknown, and its latency is below ``limit``."""
    ratio = known(row, "latency_ratio")
    return known(row, "accuracy") is None and ratio is not None and ratio < min(limit, 1.0)


def _trains(row: Row, opened: SearchableJob) -> bool:
    try:
        return opened.compose(Replay(row["recipe"])).trains
    except Exception:  # an error of a plugin must not prevent closing the search
        return True


def _finished(
    missed: Row,
    study: Study,
    opened: SearchableJob,
    measurer: Measurer,
    folder: Path,
    progress: Callable[[float, str], None] | None,
) -> Row | None:
    """The row of ``missed`` with an accuracy, stored in the study; None if it fails."""
    trial = Trial(opened, measurer, MachineLock(), missed["trial"], folder, study.baseline, progress, judge=False)
    row = trial.run(missed["recipe"], missed.get("label", ""))
    if row["status"] == "failed":
        log.warning("trial %d, a near miss, could not be finished: %s", row["trial"], row["reason"])
        return None
    row["seconds"] += missed["seconds"]
    study.amend(row["trial"], row)
    return row

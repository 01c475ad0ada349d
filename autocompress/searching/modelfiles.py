"""Keeps and deletes the model files of the trials of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from autocompress.compression.artifact import MODEL_FILE, WEIGHTS_FILE
from autocompress.job import Job
from autocompress.objectives.fronts import USUAL_BAR, Contenders, fastest_within
from autocompress.results import Row


class KeptModels:
    """The rows that keep their model files.

    These are rows that may belong to the front, and the fastest model within the accuracy bar.

    Args:
        folder: ``results/<name>``.
        job: job of the search.
        baseline: the baseline's row.
        rows: the rows so far; files of rows that are not kept are deleted.
    """

    def __init__(self, folder: Path, job: Job, baseline: Row, rows: Iterable[Row]) -> None:
        self._folder, self._bar = folder, accuracy_bar(job)
        rows = list(rows)
        there = still_there(folder, rows)
        self._contenders = Contenders(job.objectives, baseline, there)
        self._fastest = fastest_within(there, self._bar)
        kept = {row["trial"] for row in self.rows}
        drop_files(folder, (row for row in rows if row["trial"] not in kept))
        drop_files(folder, (one for row in rows for one in rungs_below(row)))

    @property
    def front(self) -> list[Row]:
        """The front's rows, the most accurate first."""
        return self._contenders.front

    @property
    def rows(self) -> list[Row]:
        """All rows that keep their files."""
        found = self._contenders.rows
        extra = [] if self._fastest is None or any(row is self._fastest for row in found) else [self._fastest]
        return [*found, *extra]

    def add(self, row: Row) -> None:
        """Adds a row, and deletes files that are not needed any more.

        It replaces a row of the same trial on a lower rung. The cost does not grow with the number
        of rows that were added before.
        """
        drop_files(self._folder, rungs_below(row))
        self._contenders.discard(row["trial"])
        if self._fastest is not None and self._fastest["trial"] == row["trial"]:
            self._fastest = None
        before = [*self.rows, row]
        if row.get("reached") and not still_there(self._folder, [row]):
            return  # on its lower rung it was no contender, and training gained nothing
        self._contenders.add(row)
        rivals = [one for one in (self._fastest, row) if one is not None]
        self._fastest = fastest_within(rivals, self._bar)
        kept = {id(one) for one in self.rows}
        drop_files(self._folder, (one for one in before if id(one) not in kept))


def accuracy_bar(job: Job) -> float:
    """Points of accuracy that the fastest model may lose: the job's bound, or one point."""
    drop = job.constraints.all_bounds().get("accuracy_drop")
    return USUAL_BAR if drop is None else drop.value


def artifact_folder(trial: int, rung: int = 0) -> Path:
    """The folder of a trial's model, relative to the folder of the run."""
    return Path("artifacts") / (f"{trial}-rung{rung}" if rung else str(trial))


def rungs_below(row: Row) -> Iterator[Row]:
    """Rows with artifacts of lower rungs of the same trial, if ``row`` has its own artifact."""
    for rung in range(int(row.get("rung") or 0) if row.get("artifact") else 0):
        yield {"artifact": artifact_folder(row["trial"], rung).as_posix()}


def drop_files(folder: Path, rows: Iterable[Row]) -> None:
    """Deletes the model files of ``rows``; recipe, plan and metrics stay.

    Otherwise a search over large models would fill the disk.
    """
    for row in rows:
        if row.get("artifact"):
            for name in (MODEL_FILE, WEIGHTS_FILE):
                (folder / row["artifact"] / name).unlink(missing_ok=True)


def still_there(folder: Path, rows: Iterable[Row]) -> list[Row]:
    """``rows`` without those whose model was deleted.

    An earlier closing found these worse than in the first measurement, so they must not dominate
    others.
    """
    return [row for row in rows if not row.get("artifact") or with_artifact(folder, row)["artifact"]]


def with_artifact(folder: Path, row: Row) -> Row:
    """``row``, with its artifact only if the model exists."""
    artifact = row.get("artifact") or ""
    there = bool(artifact) and (folder / artifact / MODEL_FILE).exists()
    return {**row, "artifact": artifact if there else ""}

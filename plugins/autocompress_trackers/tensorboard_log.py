"""TensorBoard: an event file in the run's folder, ``tensorboard --logdir results``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from autocompress.job import Job
from autocompress_trackers.figures import figures, settings, summary

FOLDER = "tensorboard"


class TensorBoard:
    """Figures by number of the trial, and the recipes as text."""

    def __init__(self, job: Job) -> None:
        self._writer = SummaryWriter(str(job.folder / FOLDER), write_to_disk=True)
        lines = [f"{name}: {value}" for name, value in settings(job).items()]
        self._writer.add_text("job", "\n".join(f"    {line}" for line in lines))

    def trial(self, row: Mapping[str, Any]) -> None:
        """Scalars of the trial."""
        for name, value in figures(row).items():
            self._writer.add_scalar(f"trial/{name}", value, row["trial"])
        recipe = ", ".join(f"{name} {value}" for name, value in (row.get("recipe") or {}).items())
        self._writer.add_text("recipe", f"{row['status']}: {recipe}", row["trial"])
        self._writer.flush()

    def finish(self, result: Any) -> None:
        """Figures of the whole search."""
        for name, value in summary(result).items():
            self._writer.add_scalar(f"search/{name}", value, len(result.trials))

    def close(self) -> None:
        """Writes pending data."""
        self._writer.close()


def opened(job: Job) -> TensorBoard:
    """The tracker of a search."""
    return TensorBoard(job)

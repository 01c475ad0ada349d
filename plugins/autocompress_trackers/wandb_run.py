"""Weights & Biases: a run for the search. ``WANDB_MODE=offline`` keeps it in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import wandb

from autocompress.job import Job
from autocompress_trackers.figures import figures, files, settings, summary

PROJECT = "autocompress"


class WeightsAndBiases:
    """Figures by number of the trial; the front as a table."""

    def __init__(self, job: Job) -> None:
        self._run = wandb.init(
            project=PROJECT,
            name=job.folder.name,
            dir=str(job.folder),
            config=settings(job),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("trial")
        self._run.define_metric("*", step_metric="trial")

    def trial(self, row: Mapping[str, Any]) -> None:
        """Figures of the trial."""
        self._run.log({"trial": row["trial"], **figures(row)})

    def finish(self, result: Any) -> None:
        """Figures of the whole search, the front, and the run's files."""
        self._run.summary.update(summary(result))
        table = result.front.assign(recipe=result.front["recipe"].map(str)).astype(object)
        self._run.log({"front": wandb.Table(dataframe=table.where(table.notna(), None))})
        for file in files(result.folder):
            self._run.save(str(file), base_path=str(result.folder), policy="now")

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def opened(job: Job) -> WeightsAndBiases:
    """The tracker of a search."""
    return WeightsAndBiases(job)

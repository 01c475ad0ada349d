"""MLflow: a run for the search, below it a run for each trial with its recipe as parameters."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.time import get_current_time_millis

from autocompress.job import Job
from autocompress_trackers.figures import figures, files, settings, summary

EXPERIMENT = "autocompress"
PARENT, NAME = "mlflow.parentRunId", "mlflow.runName"
FOLDER, HOST = "autocompress.folder", "autocompress.host"
LONGEST = 500
"""Maximum length of a parameter that every store accepts."""
_STATES = {"failed": "FAILED", "complete": "FINISHED"}


class MLflow:
    """Writes to the store that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, job: Job) -> None:
        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = self._client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        here = {FOLDER: str(job.folder.resolve()), HOST: platform.node()}
        self._end_left(here)
        tags = {NAME: job.folder.name, **here}
        self._run = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._client.log_batch(self._run, params=_params(settings(job)))
        self._ended = False

    def _end_left(self, here: Mapping[str, str]) -> None:
        """Ends runs of the same folder, and their trials, that a killed process left open.

        Other machines that share the store may have a folder of this path, so the host must match
        too.
        """
        left = list(self._client.search_runs([self._experiment], "attributes.status = 'RUNNING'"))
        searches = {run.info.run_id for run in left if here.items() <= run.data.tags.items()}
        for run in left:
            if run.info.run_id in searches or run.data.tags.get(PARENT) in searches:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def trial(self, row: Mapping[str, Any]) -> None:
        """A run of its own, and the same figures in the search's run, by number of the trial."""
        tags = {PARENT: self._run, NAME: f"trial {row['trial']}", "status": str(row["status"])}
        child = self._client.create_run(self._experiment, tags=tags).info.run_id
        now, step = get_current_time_millis(), int(row["trial"])
        metrics = [Metric(name, value, now, step) for name, value in figures(row).items()]
        self._client.log_batch(child, metrics=metrics, params=_params(row.get("recipe") or {}))
        self._client.log_batch(self._run, metrics=metrics)
        self._client.set_terminated(child, _STATES.get(str(row["status"]), "KILLED"))

    def finish(self, result: Any) -> None:
        """Figures of the whole search, and its files."""
        for name, value in summary(result).items():
            self._client.log_metric(self._run, name, value)
        for file in files(result.folder):
            self._client.log_artifact(self._run, str(file))
        self._end("FINISHED")

    def close(self) -> None:
        """Ends the runs; an unfinished search is marked as killed."""
        self._end("KILLED")

    def _end(self, state: str) -> None:
        if not self._ended:
            self._ended = True
            self._client.set_terminated(self._run, state)


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)[:LONGEST]) for name, value in values.items()]


def opened(job: Job) -> MLflow:
    """The tracker of a search."""
    return MLflow(job)

"""Sends a search to experiment trackers: MLflow, TensorBoard, Weights & Biases.

The environment variable ``AUTOCOMPRESS_TRACKERS`` names them (``mlflow,tensorboard,wandb``);
without it nothing is sent. Each tracker takes its own settings (``MLFLOW_TRACKING_URI``,
``WANDB_MODE=offline``). Failures of a tracker are logged, and do not end the search.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from autocompress.contract import hookimpl
from autocompress.job import Job

VARIABLE = "AUTOCOMPRESS_TRACKERS"
MODULES = {"mlflow": "mlflow_store", "tensorboard": "tensorboard_log", "wandb": "wandb_run"}
"""Trackers, and the modules for them."""
PACKAGES = {"mlflow": "mlflow-skinny", "tensorboard": "tensorboardX", "wandb": "wandb"}
log = logging.getLogger("autocompress.trackers")


class Tracker(Protocol):
    """A tracker of one search."""

    def trial(self, row: Mapping[str, Any]) -> None:
        """Sends a finished trial; the row has the columns of trials.csv."""

    def finish(self, result: Any) -> None:
        """Sends the result of a finished search, a SearchResult."""

    def close(self) -> None:
        """Closes the tracker in this process."""


_open: dict[str, list[Tracker]] = {}
"""Trackers of the searches of this process, by folder of the run."""


@hookimpl
def autocompress_search_started(job: Job) -> None:
    """Opens the trackers that the environment names."""
    _close(job.folder)
    _open[_key(job.folder)] = [tracker for name in asked() if (tracker := _made(name, job)) is not None]


@hookimpl
def autocompress_trial_finished(job: Job, trial: dict[str, Any]) -> None:
    """Sends the trial's figures."""
    for tracker in _open.get(_key(job.folder), []):
        _sent(tracker, "trial", trial)


@hookimpl
def autocompress_search_finished(job: Job, result: Any) -> None:
    """Sends the front and the run's files, and closes the trackers."""
    for tracker in _open.get(_key(job.folder), []):
        _sent(tracker, "finish", result)
    _close(job.folder)


@hookimpl
def autocompress_search_stopped(job: Job) -> None:
    """Closes the trackers of a search that has no result."""
    _close(job.folder)


def asked() -> list[str]:
    """The trackers that the environment names; unknown names are logged and left out."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if name not in MODULES:
            log.warning("%s names '%s', which is no tracker; known: %s", VARIABLE, name, ", ".join(MODULES))
    return [name for name in dict.fromkeys(names) if name in MODULES]


def _made(name: str, job: Job) -> Tracker | None:
    try:
        opened: Callable[[Job], Tracker] = import_module(f"{__name__}.{MODULES[name]}").opened
        return opened(job)
    except ImportError as error:
        log.warning("%s gets nothing: %s; 'pip install %s' adds it", name, error, PACKAGES[name])
    except Exception as error:  # an error of a tracker must not end the search
        log.warning("%s gets nothing: %s: %s", name, type(error).__name__, error)
    return None


def _sent(tracker: Tracker, what: str, about: Any) -> None:
    try:
        getattr(tracker, what)(about)
    except Exception as error:  # an error of a tracker must not end the search
        log.warning("%s did not get a %s: %s: %s", type(tracker).__name__, what, type(error).__name__, error)


def _close(folder: Path) -> None:
    for tracker in _open.pop(_key(folder), []):
        try:
            tracker.close()
        except Exception as error:  # an error of a tracker must not end the search
            log.warning("%s cannot be closed: %s: %s", type(tracker).__name__, type(error).__name__, error)


def _key(folder: Path) -> str:
    return str(folder.resolve())

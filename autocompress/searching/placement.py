"""Placement: Ray Tune puts trials on worker processes, keeps these between trials, and replaces those that die."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as RayTrial

from autocompress.searching.searcher import StudySearcher
from autocompress.searching.trainable import Settings, TrialRunner

QUIET = {
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # recipes asked ahead: more would only be staler
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Ray's settings for a search; what the user's environment sets already stays."""


def run(searcher: StudySearcher, settings: Settings) -> None:
    """Runs trials until the searcher has no more, or the user interrupts (the first Ctrl-C returns normally)."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _cluster(settings.job.workers), _quiet():
        trainable = tune.with_resources(
            tune.with_parameters(TrialRunner, settings=settings), {"cpu": 1, "gpu": _gpu_share(settings.job.workers)}
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=None,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="ray", storage_path=str(settings.folder), verbose=0, callbacks=[_Losses(searcher)]
            ),
        )
        tuner.fit()


class _Losses(tune.Callback):
    """Tells the searcher why a worker was lost: Ray's word to the searcher itself does not say."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Called after the searcher heard that the trial is over."""
        del iteration, trials, info
        file = Path(trial.error_file or "")
        self._searcher.lost(trial.trial_id, file.read_text(encoding="utf-8") if file.is_file() else "")


def _name(trial: RayTrial) -> str:
    """A recipe would overflow a file name."""
    return f"trial_{trial.config.get('trial', trial.trial_id)}"


def _gpu_share(workers: int) -> float:
    return torch.cuda.device_count() / workers if torch.cuda.is_available() else 0.0


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """A cluster on this machine, unless the process is connected to one already."""
    if ray.is_initialized():
        yield
        return
    # Ray's sockets lie below it, and the path of a socket has 107 characters at most.
    scratch = tempfile.mkdtemp(prefix="ac-ray-")
    try:
        options: dict[str, Any] = {"_temp_dir": scratch, "object_store_memory": 100 * 2**20}
        ray.init(
            address="local",  # else RAY_ADDRESS would name another
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own words go to the run's log, not between the lines of ours."""
    target = logging.getLogger("autocompress").handlers
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = list(target) if logger.name == "ray" else [], logger.name != "ray"
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)

"""Placement of workers: Ray Tune starts them where resources are free, and replaces lost ones."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import Searcher

from autocompress.errors import UserError
from autocompress.searching import localray, site, stopping
from autocompress.searching.dispatch import Dispatcher
from autocompress.searching.gpus import gpu_plan
from autocompress.searching.settings import Settings
from autocompress.searching.site import Site
from autocompress.searching.workerprocess import WorkerProcess

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune waits for the running trials; see stopping.py
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Ray's settings for a search; variables in the user's environment have priority."""


def run(dispatcher: Dispatcher, settings: Settings, turn: Callable[[], None], cluster: Site | None = None) -> None:
    """Runs recipes on workers until the dispatcher has no more.

    Args:
        dispatcher: gives recipes and takes rows.
        settings: settings of the workers.
        turn: called often in this thread, for other work of the driver.
        cluster: cluster for the workers; None starts Ray on this machine.

    Raises:
        UserError: if Ray cannot be started here, or if no worker could ever start.
        KeyboardInterrupt: on Ctrl-C. The workers have ended then.
        Terminated: on SIGTERM.
    """
    workers = settings.job.workers
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # The number of processes that start at a time. Recipes are not drawn in advance, because trials
    # of Tune are workers, not recipes. On a cluster, some may wait for a node that was lost.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers if cluster is None else 4 * workers)
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(localray.cluster(workers))
        stack.enter_context(_quiet())
        crew = _Crew(dispatcher, cluster)
        stack.callback(crew.end)
        if cluster is None:
            gpus = int(ray.cluster_resources().get("GPU", 0))
            request: Any = {"cpu": 1, "gpu": gpu_plan(gpus, workers)}
        else:
            dispatcher.is_node_gone = cluster.nodes.is_gone
            request = site.placement_of
        trainable = tune.with_resources(tune.with_parameters(WorkerProcess, settings=settings), request)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Places(dispatcher, workers, cluster),
                num_samples=-1,
                max_concurrent_trials=None,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(settings.folder),
                verbose=0,
                callbacks=[crew],
                stop=_Over(dispatcher, turn, cluster),
            ),
        )
        with stopping.terminated_by_name():
            tuner.fit()
    if dispatcher.no_worker_starts and not dispatcher.workers_seen:  # otherwise there are rows, and a front
        raise UserError(f"no worker process can start: {dispatcher.start_error}", f"see {settings.folder / 'log.txt'}")


class _Unsaved:
    """Prevents Tune from pickling this object; only the study must be stored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Places(_Unsaved, Searcher):
    """The search algorithm for Tune, which asks for the number of workers that can be busy."""

    def __init__(self, dispatcher: Dispatcher, workers: int, cluster: Site | None) -> None:
        super().__init__()
        self._dispatcher, self._workers, self._cluster = dispatcher, workers, cluster
        self._alive: set[str] = set()
        self._count = 0

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Ignores Tune's settings, because the study has objectives and space."""
        del metric, mode, config, spec
        return True

    def suggest(self, trial_id: str) -> Any:
        """A place for one more worker; None while there are enough; FINISHED at the end."""
        if self._dispatcher.is_over:
            return Searcher.FINISHED
        alive = len(self._alive) if self._cluster is None else self._cluster.slots.alive
        if self._dispatcher.is_start_in_doubt or alive >= min(self._workers, self._dispatcher.work_left):
            return None
        place = {} if self._cluster is None else self._cluster.take(trial_id)
        if place is None:
            return None
        self._alive.add(trial_id)
        self._count += 1
        return {"worker": self._count, **place}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A worker has ended."""
        del result, error
        self._alive.discard(trial_id)
        if self._cluster is not None:
            self._cluster.slots.free(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: Ray asks for a checkpoint, but this searcher needs none."""
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: there is no checkpoint to load."""
        del checkpoint_path

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Does nothing: Ray asks for a checkpoint, but this searcher needs none."""
        del checkpoint_dir, session_str

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Does nothing: there is no checkpoint to load."""
        del checkpoint_dir


class _Crew(_Unsaved, tune.Callback):
    """Gives each worker its next recipe; Tune schedules a step right after each of these events."""

    def __init__(self, dispatcher: Dispatcher, cluster: Site | None) -> None:
        self._dispatcher, self._cluster = dispatcher, cluster
        self._actors: dict[str, ActorHandle] = {}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """The process of a worker has started."""
        del iteration, trials, info
        actor = trial.temporary_state.ray_actor
        assert actor is not None
        self._actors[trial.trial_id] = actor
        self._dispatcher.started()
        self._send(trial)

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker has finished a recipe.

        It gets the next one before the driver handles the row.
        """
        del iteration, trials, info
        if why := result.get("refused"):
            self._refused(trial, why)
        if result["done"]:
            return
        row = self._dispatcher.finished(trial.trial_id, json.loads(result["row"]) if result["row"] else None)
        self._send(trial)
        if row is not None:
            self._dispatcher.tell(row)

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A worker has ended because there is no recipe left."""
        del iteration, trials, info
        self._actors.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """A worker was lost."""
        del iteration, trials, info
        self._actors.pop(trial.trial_id, None)
        file = Path(trial.error_file or "")
        error = file.read_text(encoding="utf-8") if file.is_file() else ""
        self._dispatcher.lost(trial.trial_id, error, trial.config.get("node", ""))

    def _refused(self, trial: RayTrial, why: str) -> None:
        """A worker could not open the job. After several of them, the node gets no more workers."""
        node = trial.config.get("node", "")
        if not self._dispatcher.refused(trial.trial_id, why, node):
            return
        if self._cluster is None or not self._cluster.admission.refuse(node, why):
            self._dispatcher.start_no_more()

    def _send(self, trial: RayTrial) -> None:
        """Gives the worker its next recipe; none on a drained node, so that the worker ends."""
        worker = trial.trial_id
        is_leaving = self._cluster is not None and self._cluster.nodes.is_gone(trial.config.get("node", ""))
        self._actors[worker].take.remote(None if is_leaving else self._dispatcher.hand_out(worker))

    def end(self) -> None:
        """Kills the remaining workers; after an interrupt they are within a trial."""
        for actor in [] if localray.is_ending else self._actors.values():
            ray.kill(actor)
        self._actors.clear()


class _Over(_Unsaved, tune.Stopper):
    """Ends the search without waiting for workers that are still starting."""

    def __init__(self, dispatcher: Dispatcher, turn: Callable[[], None], cluster: Site | None) -> None:
        self._dispatcher, self._turn, self._cluster = dispatcher, turn, cluster

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Whether no recipe is being tried, and none will be; Tune asks in each step."""
        self._turn()
        if self._cluster is not None:
            self._cluster.turn()
        return self._dispatcher.is_over


def _name(trial: RayTrial) -> str:
    return f"worker_{trial.config.get('worker', trial.trial_id)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, messages of Ray go to the log of the run, not to the terminal."""
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

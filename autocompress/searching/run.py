"""Runs a search from start to end, or resumes one."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autocompress.cluster.handing import handed_out
from autocompress.compute import long_lived
from autocompress.contract import Manager, Pruner, Value, manager_for
from autocompress.data import task_of
from autocompress.errors import Terminated, UserError
from autocompress.files import full_disk_told, own_variables
from autocompress.forking import may_fork
from autocompress.job import Job, anchored, load_job, resolved, validate
from autocompress.objectives.fronts import front_hypervolume
from autocompress.opened.feasibility import UNCOMPRESSED
from autocompress.processors import usable_processors
from autocompress.proposals import probes
from autocompress.proposals.tablemaker import table_seconds
from autocompress.recipes.choosers import Replay
from autocompress.results import (
    BASELINE,
    INTERRUPTED,
    JOB_FILE,
    Row,
    SearchResult,
    read,
    write_sensitivity,
    write_tables,
)
from autocompress.results.status import OVER
from autocompress.scoring import worker_threads
from autocompress.searching import placement, rundir, site, stopping
from autocompress.searching.asked import Asked
from autocompress.searching.background import Background, Point
from autocompress.searching.begun import as_begun, begun_with, check_images, check_resumable, decided_with, images_of
from autocompress.searching.climbing.climbing import Climbing
from autocompress.searching.climbing.untrained import rung_effort, rungs_act, untrained
from autocompress.searching.clock import Clock
from autocompress.searching.closing import Closing
from autocompress.searching.corrections import Corrections
from autocompress.searching.dashboard import front_files
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.driver_worker import DriverWorker
from autocompress.searching.earlier import recipes_from
from autocompress.searching.early import TrialProcess, TrialThread
from autocompress.searching.endings import Endings
from autocompress.searching.explaining import allowed
from autocompress.searching.gates import Lock, Trial
from autocompress.searching.ledger import Ledger
from autocompress.searching.measurer import Measurer
from autocompress.searching.mirror import Mirror, mirrored, resumed
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.nearest import finish_nearest_miss, finish_within_bar
from autocompress.searching.progress import Observer, Silent, Steps, Unbreakable
from autocompress.searching.recorded import Recorded
from autocompress.searching.searchable import Opener, SearchableJob, is_by_agreement
from autocompress.searching.site import Site
from autocompress.searching.spool import Spool
from autocompress.searching.storing import opening as storing
from autocompress.searching.study import Study, read_begun
from autocompress.searching.trainable import Settings, open_job

log = logging.getLogger("autocompress.search")
MOST_FORKED = 3
"""Most forked processes that try recipes before workers have started; a dozen proposals wait."""
LIBRARIES = ("autocompress", "torch", "timm", "optuna", "ray", "onnx", "onnxruntime")


def search(
    job: Job, *, observer: Observer | None = None, opener: Opener = open_job, began: float | None = None
) -> SearchResult:
    """Searches for the front of ``job``.

    Ctrl-C ends it early: the run is closed with the front so far, and ``summary["ended"]`` is
    "interrupted". SIGTERM ends it without closing. In both cases :func:`resume` continues.

    Args:
        job: see ``autocompress.job.load_job``.
        observer: notified of progress.
        opener: opens the job, in this process and in every worker.
        began: start of the job's minutes, by ``time.monotonic``; now, by default.

    Returns:
        The finished run, read from ``results/<name>``.

    Raises:
        UserError: if the job cannot be carried out, the run exists already, or this machine cannot
            run Ray.
        KeyboardInterrupt: on Ctrl-C before the first trial, or on a second Ctrl-C.
        Terminated: on SIGTERM. It is a SystemExit with code 75.
    """
    clock = Clock(time.monotonic() if began is None else began)
    plugins = manager_for(job)
    validate(job, plugins)
    placement.check(job)
    storing.check(job.search.storage)
    job = anchored(resolved(job), plugins)
    with (
        stopping.caught(),
        mirrored(job) as mirror,
        rundir.begun(job, versions()) as folder,
        rundir.logged(folder),
        _full_disk_told(folder),
        Recorded(observer or Silent(), folder, job.workers) as recorded,
        site.connected(job, folder, plugins.device(job.device.name), recorded.on_note) as cluster,
    ):
        if mirror is not None:
            mirror.begin()
        return _Run(job, folder, recorded, opener, plugins, clock, cluster, mirror).go()


def resume(
    folder: Path | str,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    observer: Observer | None = None,
    opener: Opener = open_job,
    began: float | None = None,
) -> SearchResult:
    """Continues the search in ``folder``.

    Finished trials are kept, interrupted ones are tried again, and spent trials and minutes count.

    Args:
        folder: ``results/<name>``, or its URL.
        trials, minutes: a new budget for the whole search; None for that of the job.
        observer: notified of progress.
        opener, began: as for :func:`search`.

    Raises:
        UserError: if ``folder`` is not a run, another process drives it, its job cannot be carried
            out here, or new rows would not be comparable with its rows. That is so if the job
            (except name, budget, workers and sampler), the images, the baseline, versions of
            libraries, or the measuring machine have changed.
        KeyboardInterrupt, Terminated: as :func:`search`.
    """
    clock = Clock(time.monotonic() if began is None else began)
    with stopping.caught(), resumed(Path(folder)) as (home, mirror):
        if not (home / JOB_FILE).is_file():
            raise UserError(f"{folder} is not a run: it has no {JOB_FILE}", "give the folder that a search wrote")
        job = load_job(home / JOB_FILE, {"trials": trials, "minutes": minutes}, flags=True)  # errors name --trials
        if mirror is None:
            place = home.resolve()  # it may have been moved or renamed since
            job = job.model_copy(update={"results": place.parent, "name": place.name})
        return _go_on(job, home, mirror, clock, observer, opener)


def _go_on(
    job: Job, folder: Path, mirror: Mirror | None, clock: Clock, observer: Observer | None, opener: Opener
) -> SearchResult:
    """Resumes the run in ``folder``."""
    plugins = manager_for(job)
    validate(job, plugins)
    placement.check(job)
    storing.check(job.search.storage)
    with (
        rundir.driver(folder),
        rundir.logged(folder),
        _full_disk_told(folder),
        Recorded(observer or Silent(), folder, job.workers) as recorded,
        site.connected(job, folder, plugins.device(job.device.name), recorded.on_note) as cluster,
    ):
        return _Run(job, folder, recorded, opener, plugins, clock, cluster, mirror).go()


def _full_disk_told(folder: Path) -> AbstractContextManager[None]:
    return full_disk_told(folder, f"make room; 'autocompress resume {folder}' goes on")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries on which a run depends."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


class _Run:
    """The driver's side of a search, from the opened job to the finished folder."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        recorded: Recorded,
        opener: Opener,
        plugins: Manager,
        clock: Clock,
        cluster: Site | None,
        mirror: Mirror | None,
    ) -> None:
        self._clock, self._cluster, self._mirror = clock, cluster, mirror
        self._recorded, self._observer = recorded, Unbreakable(recorded)
        self._job, self._folder, self._plugins = job, folder, plugins
        self._opener = opener
        self._progress = Steps(self._observer)
        # From the file, as in a resume: it has the limits of spaces, and absolute paths.
        begun = begun_with(load_job(folder / JOB_FILE), plugins.device(job.device.name))
        if (known := read_begun(folder, job.search.storage)) is not None:  # before anything is trained
            check_resumable(folder, known, begun)
        self._opened = opener(as_begun(job, known), self._progress)
        begun |= decided_with(self._opened.job)
        clock.leave_out(self._opened.training_seconds)
        self._measurer = Measurer.of(job, self._opened.device, plugins)
        self._baseline = baseline_row(self._opened, self._measurer)
        self._study = Study(folder, job, self._baseline, plugins)
        self._check_images()  # first, because other training images also give another baseline
        self._check_baseline()
        self._study.claim()
        self._study.keep_begun(begun)
        self._spool = Spool(folder)
        for number, row in self._spool.waiting():  # finished rows that a killed driver did not add
            self._study.keep(number, row)
        self._spool.clear()
        if again := self._study.recover():
            log.info("%d recipes that were under way are tried again", again)
        told = self._observer.on_note, Steps(self._observer)
        self._background = Background(self._opened, self._bits_pay, self._measurer, self._baseline, *told)
        self._corrections: Corrections | None = None
        self._first: Sequence[Point] = []
        if self._study.is_new:
            # The figures of the uncompressed model are known, so it can wait until there are
            # tables.
            points = [point for point in self._opened.starting_points() if point[0] != UNCOMPRESSED]
            self._first = [*self._earlier(), *(point for point in points if not self._trains(point))]
            self._study.enqueue_starting_points(self._first)

    def _earlier(self) -> list[Point]:
        """Recipes of the earlier run that the job names."""
        if self._job.recipes_from is None:
            return []
        found = recipes_from(self._job.recipes_from, self._opened.compose, self._job.budget.trials)
        for note in found.notes:
            self._observer.on_note(note)
        return found.points

    def _trains(self, point: Point) -> bool:
        """Whether a recipe may take long.

        An invalid recipe counts as long, so that a worker tries it and reports the reason.
        """
        try:
            return self._opened.compose(Replay(point[1])).trains
        except Exception:  # a plugin's fault must not end the search
            return True

    def _take_proposals(self, is_waiting: bool) -> None:
        """Queues the proposals when they are made; waits for them if no recipe is queued."""
        made = self._background.ready(meanwhile=None if is_waiting else self._own_worker.turn)
        if made is None:
            return
        self._study.before_ask = None
        self._study.proposed = made.proposed
        if made.proposed is not None:
            for note in made.proposed.notes:
                self._observer.on_note(note)
            self._corrections = Corrections(self._study, made.proposed, self._baseline, self._study.rows())
            self._study.before_ask = self._corrections.before_ask
        if self._study.is_proposed:
            return
        write_tables(self._folder, made.table_rows)
        if made.sensitivity:
            write_sensitivity(self._folder, [asdict(row) for row in made.sensitivity])
        known = [values for _, values in self._first]
        others = [(label, self._untrained(values)) for label, values in made.points if values not in known]
        self._study.enqueue_proposals([*(made.proposed.recipes if made.proposed else ()), *others])

    def _untrained(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """A starting point without training of its own, if rungs decide what is trained."""
        return untrained(values, self._opened.compose) if self._climbing is not None else dict(values)

    @property
    def _bits_pay(self) -> bool:
        """Whether fewer than 8 bits improve an objective of the job; in runtimes, only size."""
        asked = {*self._job.objectives, *self._job.constraints.bounds()}
        return bool(asked & {"size", "energy"}) or self._measurer.deterministic

    def _check_images(self) -> None:
        """Refuses to go on with rows that were judged on other images.

        The first run records the digests of the images. So does the first resume of a run that
        began with another version of the digests.
        """
        now = images_of(self._opened.splits)
        known = self._study.images
        if known is None or known.get("version") != now["version"]:
            self._study.keep_images(now)
        else:
            check_images(self._folder, known, now)

    def _check_baseline(self) -> None:
        """Refuses to go on with rows that were judged against another baseline."""
        key, known = self._opened.baseline.key, self._study.baseline_key
        if known is None:
            self._study.keep_baseline_key(key)
        elif key != known:
            raise UserError(
                "the baseline is not the one that this run began with",
                "its weights or the installed versions changed since: bring them back, or start another search",
            )

    @property
    def _seconds(self) -> float:
        """Seconds spent on the search, including earlier runs."""
        return self._clock.seconds

    def _seconds_left(self) -> float | None:
        minutes = self._job.budget.minutes
        return None if minutes is None else max(0.0, 60.0 * minutes - self._seconds)

    def go(self) -> SearchResult:
        """Runs what the budget leaves, and closes."""
        self._clock.go_on_from(self._study.seconds)
        rows = self._study.rows()
        self._ledger = Ledger(self._folder, rows)
        self._kept = KeptModels(self._folder, self._job, self._baseline, rows)
        self._endings = Endings(self._job, self._baseline, rows)
        promoted = self._study.promoted()
        climbs = rungs_act(self._job)
        splits = self._opened.splits
        effort = rung_effort(splits, self._job)
        self._climbing = Climbing(self._job, self._baseline, rows, promoted, effort) if climbs else None
        own = [f"data: {splits.describe()}"] if splits.synthetic or splits.unlabelled else []
        own += [self._study.note] if self._study.note else []
        for note in own + list(splits.notes):
            self._observer.on_note(note)
        self._observer.on_baseline(self._baseline)
        self._observer.on_start(self._job.budget.trials)
        self._plugins.tell("autocompress_search_started", job=self._job)
        try:
            with long_lived():
                return self._searched(len(rows))
        except BaseException as error:
            if self._mirror is not None and isinstance(error, Terminated):
                self._mirror.release()  # first: a slow plugin may take all the time that is left
            self._plugins.tell("autocompress_search_stopped", job=self._job)
            raise

    def _searched(self, done: int) -> SearchResult:
        """Runs what the budget leaves beside ``done`` trials, and closes."""
        if not done:
            self._observer.on_note(self._forecast())
        left = self._seconds_left()
        allowance = Allowance(
            trials=max(0, self._job.budget.trials - done),
            deadline=None if left is None else time.time() + left,
            trial_seconds=60.0 * self._job.budget.trial_minutes,
        )
        try:
            ended = self._spend(allowance, done)
        except KeyboardInterrupt:
            ended = INTERRUPTED
            self._observer.on_note("interrupted; writing the front so far (Ctrl-C again ends at once)")
        except Terminated:
            self._study.spend(self._seconds)
            log.info("stopped by SIGTERM; 'autocompress resume %s' continues", self._folder)
            raise
        self._study.recover()  # interrupted recipes wait for a resume
        return self._close(ended)

    def _forecast(self) -> str:
        """A text with the expected cost of the search, before the first trial."""
        budget, parts = self._job.budget, []
        if any(isinstance(method, Pruner) for method in self._opened.methods) and self._job.search.tables:
            parts.append(
                f"tables in at most {table_seconds(self._job):.0f} s and {probes.COUNT} probes beside the first trials"
            )
        limits = f"at most {budget.trials} trials"
        limits += (
            "" if budget.minutes is None else f" or {budget.minutes:g} minutes, {self._seconds:.0f} s of them spent"
        )
        return f"estimate: {', '.join([*parts, limits])}"

    def _spend(self, allowance: Allowance, done: int) -> str:
        """Runs trials; returns the reason for their end."""
        is_climbing = self._climbing is not None and self._climbing.next(is_last=True, seconds=None) is not None
        if not allowance.trials and not is_climbing:
            self._observer.on_note(f"{done} of {self._job.budget.trials} trials are done: none is left")
            return "all trials are spent"
        if self._seconds_left() == 0:
            minutes = f"{self._job.budget.minutes:g} minutes, of which this run's preparation is a part"
            self._observer.on_note(f"the limit of {minutes}, is reached: no trial is begun")
            return "the time is up"
        if why := self._endings.why:
            self._observer.on_note(f"{why}: no trial is begun")
            return why
        told = self._on_row, self._observer.on_note
        recipes = self._study, self._opened.compose, allowance, self._spool
        dispatcher = Dispatcher(*recipes, *told, self._endings, self._climbing)
        self._recorded.under_way = lambda: dispatcher.under_way
        is_first = bool(self._first) and not self._study.is_proposed and not self._trains(self._first[0])
        # If workers take all processors, starting them while tables are made delays both.
        is_crowded = self._cluster is None and usable_processors() <= self._job.workers
        busy = 0 if is_crowded else self._job.workers
        # Forking needs that no other thread works yet.
        self._own_worker = self._worker_of(dispatcher, allowance, forks=is_crowded and not self._study.is_proposed)
        if not self._study.is_proposed and self._opened.begin_proposals():
            busy += 1
        threads = max(1, min(torch.get_num_threads(), usable_processors() - busy))
        self._own_worker.start(with_recipe=is_first, threads=threads, deadline=allowance.deadline)
        self._study.before_ask = self._take_proposals
        try:
            if is_crowded:
                self._background.wait_for_proposals(self._own_worker.turn)
                if self._background.has_recipes:
                    self._own_worker.alone()
                self._own_worker.collect()
                if self._seconds_left() == 0 and not self._own_worker.is_busy:  # workers would start for nothing
                    return "the time is up"
            placement.run(dispatcher, self._settings(allowance.deadline), self._own_worker.turn, self._cluster)
        finally:
            self._own_worker.end()
        return dispatcher.why_ended

    def _worker_of(self, dispatcher: Dispatcher, allowance: Allowance, *, forks: bool) -> DriverWorker:
        """The driver's own worker, with forked processes if ``forks`` and that is safe."""
        folder = self._folder.resolve()

        def attempt(asked: Asked, lock: Lock) -> Row:
            trial = Trial(self._opened, self._measurer, lock, asked.number, folder, self._baseline)
            return trial.run(asked.values, asked.label)

        device, config = self._measurer.device, self._measurer.config
        is_safe = device.formats == {"onnx"} and (device.deterministic or device.is_in_thread(config)) and may_fork()
        others = min(usable_processors(), self._job.workers) - 1 if forks and is_safe else 0
        return DriverWorker(
            dispatcher,
            self._background,
            TrialThread(attempt),
            [TrialProcess(attempt, number) for number in range(1, 1 + min(others, MOST_FORKED))],
            is_quick=lambda asked: not asked.rung and not self._trains((asked.label, asked.values)),
            workers=self._job.workers,
            threads=self._threads,
            most_threads=max(self._threads, min(torch.get_num_threads(), usable_processors())),
            most_seconds=allowance.trial_seconds,
        )

    @property
    def _threads(self) -> int:
        """Threads of torch in each worker."""
        asked = self._job.compute.threads
        return asked if asked != "auto" else worker_threads(self._job)

    def _settings(self, deadline: float | None) -> Settings:
        cluster: dict[str, Any] = {}
        if self._cluster is not None:
            cluster = {
                "handed": handed_out(self._opened.baseline.deployable.file, self._opened.prepared),
                "stations": self._cluster.stations,
                "measured_by": self._measurer.measured_with(),
                "environment": own_variables(),
            }
        return Settings(
            job=self._opened.job,  # with the decisions of the driver for all workers
            folder=self._folder.resolve(),
            baseline=self._baseline,
            threads=self._threads,
            cwd=Path.cwd(),
            deadline=deadline,
            methods={method.name: method.version for method in self._opened.methods},
            opener=self._opener,
            **cluster,
        )

    def _on_row(self, row: Row) -> None:
        self._study.spend(self._seconds)
        self._kept.add(row)
        if self._corrections is not None and not row.get("reached"):
            self._corrections.add(row)
        front = self._kept.front
        self._ledger.add(row)
        if self._mirror is not None:
            self._mirror.keep(row)
        self._plugins.tell("autocompress_trial_finished", job=self._job, trial=row)
        done = len(self._ledger.rows)
        self._observer.on_trial(row, front, front_hypervolume(front) or 0.0, done, self._seconds_left())

    def _close(self, ended: str) -> SearchResult:
        """Writes the front and the report.

        After an interrupt, also one during the closing, nothing is measured.
        """
        from autocompress.report import write_report  # importing plots takes a second

        self._recorded.phase("closing", ended)
        unreachable = self._background.out_of_reach
        closing = Closing(self._opened, self._measurer, self._folder, self._baseline, out_of_reach=unreachable)
        try:
            if ended != INTERRUPTED:
                self._finish(closing, ended)
        except KeyboardInterrupt:
            ended = INTERRUPTED
        if ended == INTERRUPTED:
            closing.close_early(self._study.rows(), self._seconds, ended, self._plugins)
        self._study.spend(self._seconds)
        write_report(self._folder)
        self._recorded.phase(OVER, ended)
        result = read(self._folder)
        if self._mirror is None:  # on a URL the files would be there twice
            self._study.offer(self._folder, front_files(result))
        else:
            self._mirror.finish()
        self._plugins.tell("autocompress_search_finished", job=self._job, result=result)
        return result

    def _finish(self, closing: Closing, ended: str) -> None:
        self._background.ready(meanwhile=_nothing)  # no other thread computes while the front is measured
        home = self._folder.resolve()
        finish_nearest_miss(self._study, self._opened, self._measurer, home, self._progress)
        finish_within_bar(self._study, self._opened, self._measurer, home, self._progress)
        explains = allowed(self._seconds) if self._job.search.explain else 0.0
        then = f", then the steps of the recommended recipe (at most {explains:.0f} s)" if explains else ""
        self._observer.on_note(f"{ended}; measuring the front again{then}")
        closing.close(self._study.rows(), self._seconds, ended, self._plugins)


def _nothing() -> None:
    """Does nothing; called while waiting for the background thread."""


def baseline_row(opened: SearchableJob, measurer: Measurer) -> Row:
    """The row of the baseline; its latency is measured with the front."""
    base = opened.baseline
    return {
        "status": BASELINE,
        "accuracy": base.accuracy,
        "accuracy_drop": 0.0,
        "agreement": base.accuracy if is_by_agreement(opened) else None,
        "latency_ratio": 1.0,
        "size_bytes": base.size_bytes,
        "params": base.params,
        "macs": base.macs,
        "energy_uj": measurer.energy(base.deployable),
        **_metric(opened),
    }


def _metric(opened: SearchableJob) -> Row:
    """The name of the metric, where it is not accuracy."""
    task = task_of(opened.job)
    return {} if task.is_classification else {"metric": task.task().metric_name}

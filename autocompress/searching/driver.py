"""The driver of a search, from the opened job to the finished folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autocompress import heap
from autocompress.compute import long_lived
from autocompress.contract import Manager, Pruner, Value
from autocompress.devices.lock import MachineLock
from autocompress.errors import Terminated, UserError
from autocompress.job import Job, load_job
from autocompress.objectives.fronts import front_hypervolume
from autocompress.opened.feasibility import UNCOMPRESSED
from autocompress.opened.opening import try_devices
from autocompress.processors import usable_processors
from autocompress.proposals import probes
from autocompress.proposals.proposer import Point
from autocompress.proposals.tablemaker import table_seconds
from autocompress.recipes.jobspace import EIGHT_BIT
from autocompress.results import (
    INTERRUPTED,
    JOB_FILE,
    Row,
    SearchResult,
    read,
    write_sensitivity,
    write_tables,
)
from autocompress.results.status import OVER
from autocompress.searching.background import Background
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.begun import as_begun, begun_with, check_images, check_resumable, decided_with, images_of
from autocompress.searching.clock import Clock
from autocompress.searching.closing import Closing
from autocompress.searching.corrections import Corrections
from autocompress.searching.crew import Crew
from autocompress.searching.dashboard import front_files
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.earlier import recipes_from
from autocompress.searching.endings import Endings
from autocompress.searching.explaining import allowed
from autocompress.searching.ledger import Ledger
from autocompress.searching.measurer import Measurer
from autocompress.searching.mirror import Mirror
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.nearest import finish_nearest_miss, finish_within_bar
from autocompress.searching.progress import Steps, Unbreakable
from autocompress.searching.promotion.choosing import Climbing
from autocompress.searching.promotion.untrained import rung_effort, rungs_act, untrained
from autocompress.searching.recorded import Recorded
from autocompress.searching.records import read_begun
from autocompress.searching.searchable import Opener
from autocompress.searching.spool import Spool
from autocompress.searching.study import Study

if TYPE_CHECKING:
    from autocompress.searching.site import Site

log = logging.getLogger("autocompress.search")


LARGE_LOSS = 1.0
"""If 8 bits lose this many points, float groups are tried even if the interval contains 0."""
FIRST_PROPOSALS = 2
"""Number of proposals at the constraints that are tried before recipes with float groups."""


class Driver:
    """Runs a search in its folder, and closes it."""

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
        self._progress = Steps(self._observer)
        # The job is read from the file, as in a resume. There, limits are written out and paths are
        # absolute.
        begun = begun_with(load_job(folder / JOB_FILE), plugins.device(job.device.name))
        if (known := read_begun(folder, job.search.storage)) is not None:  # before anything is trained
            check_resumable(folder, known, begun)
        self._opened = opener(as_begun(job, known), self._progress)
        heap.give_back()  # workers start soon, and a baseline may have been trained
        begun |= decided_with(self._opened.job)
        clock.leave_out(self._opened.training_seconds)
        self._measurer = Measurer.of(job, self._opened.device, plugins)
        with MachineLock().shared():
            try_devices(job, plugins, self._opened.baseline.deployable)
        self._baseline = baseline_row(self._opened, self._measurer)
        self._crew = Crew(job, folder, self._opened, opener, self._measurer, self._baseline, cluster)
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
        self._int8_loses: bool | None = False
        helps = self._bits_pay, lambda: self._int8_loses
        self._background = Background(self._opened, *helps, self._measurer, self._baseline, *told, recorded.stands)
        self._corrections: Corrections | None = None
        self._first: Sequence[Point] = []
        if self._study.is_new:
            # The figures of the uncompressed model are known, so its trial can wait until
            # there are tables.
            points = [point for point in self._opened.starting_points() if point[0] != UNCOMPRESSED]
            self._first = [*self._earlier(), *(point for point in points if not self._crew.trains(point))]
            self._study.enqueue_starting_points(self._first)

    def _earlier(self) -> list[Point]:
        """Recipes of the earlier run that the job names."""
        if self._job.recipes_from is None:
            return []
        found = recipes_from(self._job.recipes_from, self._opened.compose, self._job.budget.trials)
        for note in found.notes:
            self._observer.on_note(note)
        return found.points

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
        floats = [(label, self._untrained(values)) for label, values in made.partly_float]
        proposals = list(made.proposed.recipes) if made.proposed else []
        first, later = proposals[:FIRST_PROPOSALS], proposals[FIRST_PROPOSALS:]
        self._study.enqueue_proposals([*first, *floats, *later, *others])

    def _untrained(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """A starting point without training of its own, if rungs decide what is trained."""
        return untrained(values, self._opened.compose) if self._climbing is not None else dict(values)

    @property
    def _bits_pay(self) -> bool:
        """Whether fewer than 8 bits improve an objective of the job: in runtimes, only the size."""
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
        """Runs the trials that the budget still allows, and closes."""
        self._clock.go_on_from(self._study.seconds)
        rows = self._study.rows()
        self._recorded.drop_met(rows)
        self._int8_loses = any(is_int8_with_loss(row) for row in rows)
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
        """Runs the trials that the budget allows in addition to ``done``, and closes."""
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
            seconds = f"{table_seconds(self._job):.0f} s"
            parts.append(f"tables in at most {seconds} of work and {probes.COUNT} probes beside the first trials")
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
            minutes = f"{self._job.budget.minutes:g} minutes (with the preparation of this run)"
            self._observer.on_note(f"the limit of {minutes} is reached: no trial is begun")
            return "the time is up"
        if why := self._endings.why:
            self._observer.on_note(f"{why}: no trial is begun")
            return why
        told = self._on_row, self._observer.on_note
        recipes = self._study, self._opened.compose, allowance, self._spool
        dispatcher = Dispatcher(*recipes, *told, self._endings, self._climbing)
        self._recorded.under_way = lambda: dispatcher.under_way
        is_first = bool(self._first) and not self._study.is_proposed and not self._crew.trains(self._first[0])
        if is_first and self._first[0][0] == EIGHT_BIT:
            self._int8_loses = None  # 8 bits are tried at once
        is_crowded = self._crew.is_crowded
        # Forking needs that no other thread works yet.
        forks = is_crowded and not self._study.is_proposed
        self._own_worker = self._crew.own(dispatcher, self._background, allowance, forks=forks)
        try:
            self._begin(allowance, with_recipe=is_first)
            # If workers take all processors, starting them while tables are made delays both.
            if is_crowded and (why := self._alone(dispatcher)):
                return why
            from autocompress.searching import placement  # here, because importing Ray takes a second

            placement.run(dispatcher, self._crew.settings(allowance.deadline), self._own_worker.turn, self._cluster)
        except KeyboardInterrupt:
            self._own_worker.collect()  # rows that have arrived
            raise
        finally:
            self._own_worker.end()
            if not self._background.is_running:  # otherwise the background thread ends them
                self._opened.end_proposals()
        return dispatcher.why_ended

    def _begin(self, allowance: Allowance, *, with_recipe: bool) -> None:
        """Starts the driver's own worker, and tables and proposals."""
        busy = 0 if self._crew.is_crowded else self._job.workers
        if not self._study.is_proposed and self._opened.begin_proposals():
            busy += 1
        threads = max(1, min(torch.get_num_threads(), usable_processors() - busy))
        self._own_worker.start(with_recipe=with_recipe, threads=threads, deadline=allowance.deadline)
        self._study.before_ask = self._take_proposals

    def _alone(self, dispatcher: Dispatcher) -> str:
        """Lets the driver's own worker try proposals before workers start.

        Returns:
            The reason why the search has ended; empty if workers should start.
        """
        self._background.wait_for_proposals(self._own_worker.turn)
        if self._background.has_recipes:
            self._own_worker.alone()
        self._own_worker.collect()
        if self._seconds_left() == 0 and not self._own_worker.is_busy:  # workers would start for nothing
            return dispatcher.why_ended or "the time is up"
        return dispatcher.why_ended if dispatcher.is_over else ""

    def _on_row(self, row: Row) -> None:
        self._study.spend(self._seconds)
        if row.get("label") == EIGHT_BIT:
            self._int8_loses = is_int8_with_loss(row)
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
        told = self._background
        parts = self._opened, self._measurer, self._folder, self._baseline
        closing = Closing(*parts, out_of_reach=told.out_of_reach, tell=self._observer.on_note, notes=told.notes)
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
        closing.out_of_reach, closing.notes = self._background.out_of_reach, self._background.notes
        home = self._folder.resolve()
        finish_nearest_miss(self._study, self._opened, self._measurer, home, self._progress)
        finish_within_bar(self._study, self._opened, self._measurer, home, self._progress)
        explains = allowed(self._seconds) if self._job.search.explain else 0.0
        then = f", then the steps of the recommended recipe (at most {explains:.0f} s)" if explains else ""
        self._observer.on_note(f"{ended}; measuring the front again{then}")
        closing.close(self._study.rows(), self._seconds, ended, self._plugins)


def is_int8_with_loss(row: Row) -> bool:
    """Whether the trial is that of 8 bits alone, and its loss of accuracy is large or certain."""
    interval = row.get("accuracy_drop_interval")
    if row.get("label") != EIGHT_BIT or interval is None:
        return False
    return bool(row["accuracy_drop"] >= LARGE_LOSS or interval[0] > 0)


def _nothing() -> None:
    """Does nothing; called while waiting for the background thread."""

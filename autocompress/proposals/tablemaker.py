"""Measures the tables of a job: losses of couplings at each width, and costs of widths."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from autocompress import models, proposals
from autocompress.compression.prune_repair import OfBaseline
from autocompress.contract import Coupling
from autocompress.devices import apart
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.job import Job
from autocompress.proposals import (
    Part,
    Problem,
    RemovedChannels,
    Selection,
    Table,
    probes,
)
from autocompress.proposals.costed import CostedLayers, work
from autocompress.proposals.costmaker import CostMaker
from autocompress.proposals.helping import Helper
from autocompress.proposals.jobtables import Tables
from autocompress.proposals.judging import affordable, batch_size, evenly
from autocompress.proposals.structure import divergence_of
from autocompress.proposals.tables import planned
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.recipes.recipe import Recipe

VERSION = "3"
"""Version of the tables, part of their key."""
SHARE, QUICK_SECONDS = 0.2, 30.0
"""Tables may take this share of the minutes of a search, up to this number of seconds, of work."""
LONG_SHARE, MOST_SECONDS = 0.1, 120.0
"""In a longer search, tables may take this share, up to this number of seconds."""
THOROUGH_MINUTES = 10.0
"""Searches of at least this duration measure further cells.

On resnet18 the further cells changed the divergence of proposals by at most 6 %, and took 40 % of
the time for tables.
"""
COPIES = 4
"""A helper only measures if free memory is this many times the size of the moments."""


@dataclass
class TableMaker(CostMaker):
    """Measures the tables of a job; its attributes are those of :class:`CostMaker`."""

    def begin(self) -> None:
        """Starts a helper if that is safe and the probes are not profiled yet.

        It must be called in the main thread, before other threads work.
        """
        default, neutral = self.recipes.default, self.recipes.neutral
        is_able = apart.can_build(self.device, self.pipeline.compute.device)
        if not is_able or default is None or default.prune is None or neutral is None:
            return
        if self.pipeline.transfer_set(default) is None:
            return
        model, pruning = self.pipeline.baseline, default.prune
        couplings = prunable(model, pruning.mode)
        parts = self.recipes.parts(couplings, pruning.multiple)
        if not parts:
            return
        network = facts(model, models.input_size(model))
        widths = CostedLayers.of(self.layers_of_files(network, couplings), parts, couplings, pruning.multiple)
        points = probes.points(parts, widths.factors(work))
        if not self.pipeline.store.has(self.probes_key(neutral, parts, points)):

            def measures(breathe: Callable[[], None]) -> tuple[list[Selection], Callable[[Selection], float]]:
                known = self.pipeline.of_baseline(default, None, breathe)
                couplings, parts = self._parts(known, pruning)
                removed = self._removed(known, network, couplings, pruning, self._images(known, parts))
                return self._planned(parts), lambda selection: removed.measure(removed.keep(parts, selection))

            self.helper = Helper.started(self.builder, parts, points, measures)

    def end(self) -> None:
        """Ends the helper, if there is one."""
        if self.helper is not None:
            self.helper.end()
            self.helper = None

    def _planned(self, parts: Sequence[Part]) -> list[Selection]:
        return planned(parts, thorough=is_thorough(self.job))

    def tables(self) -> Tables | None:
        """Measures losses of couplings and costs of widths, once per baseline and machine.

        None if no pruner acts, or there are no images.
        """
        default, neutral = self.recipes.default, self.recipes.neutral
        if default is None or default.prune is None or neutral is None or self.pipeline.transfer_set(default) is None:
            return None
        self.progress(0.0, "collecting input statistics of the layers")
        with self.lock.shared():
            known = self.pipeline.of_baseline(default, self.progress, self.breathe)
        if not known.images.enough or not len(known.images.held_out):
            return None
        model, pruning = self.pipeline.baseline, default.prune
        couplings, parts = self._parts(known, pruning)
        if not parts:
            return None
        network = facts(model, models.input_size(model))
        own = [] if self.job.search.repair else ["unrepaired"]
        own += ["thorough"] if is_thorough(self.job) else []
        key = digest("tables", VERSION, known.key, pruning.multiple, [list(part.choices) for part in parts], *own)

        def make() -> Any:
            return {"table": self._measured(known, network, couplings, parts, pruning).state()}

        def is_whole(state: Any) -> bool:  # another search may have the time to measure all parts
            return Table.from_state(state["table"]).is_whole(parts)

        with self.lock.shared():
            table = Table.from_state(self.pipeline.store.made(key, make, self.breathe, is_whole)["table"])
        divergences = {part.key: table.divergences(part) for part in parts}
        costs, fixed, errors = self.costs(neutral, network, couplings, parts, pruning)
        groups = models.groups(model, self.job.granularity)
        return self._tables(
            Problem(tuple(parts), divergences, costs, fixed),
            table,
            neutral,
            {part.name: models.group_of(part.name, groups) for part in parts},
            errors,
        )

    def _tables(
        self,
        problem: Problem,
        table: Table,
        neutral: Recipe,
        groups: Mapping[str, str],
        errors: Mapping[str, float],
    ) -> Tables:
        full = {name: problem.cost(name, problem.neutral()) for name in problem.costs}
        # Latency is relative to the baseline already, and the file of the baseline exists.
        amounts = {"macs": full["macs"], "params": full["params"], "size": float(self.baseline.file.stat().st_size)}
        wanted = [name for name in self.job.objectives if name in problem.costs]
        return Tables(
            problem,
            table,
            neutral.values,
            groups,
            errors,
            {**amounts, "latency": 1.0},
            amounts,
            first=wanted[0] if wanted else "latency",
        )

    def _parts(self, known: OfBaseline, pruning: Pruning) -> tuple[list[Coupling], list[Part]]:
        """The couplings with an order, and a part for each that has a choice."""
        couplings = [c for c in prunable(self.pipeline.baseline, pruning.mode) if c.name in known.orders]
        return couplings, self.recipes.parts(couplings, pruning.multiple)

    def _images(self, known: OfBaseline, parts: Sequence[Part]) -> int:
        """The number of images for a cell; stored, because a helper must use the same number."""
        seconds = table_seconds(self.job)
        key = digest("table images", known.key, len(parts), seconds)

        def make() -> Any:
            return affordable(self.pipeline.baseline, known.images.held_out, len(self._planned(parts)), seconds)

        return int(self.pipeline.store.made(key, make, self.breathe))

    def _removed(
        self,
        known: OfBaseline,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        pruning: Pruning,
        images: int,
    ) -> RemovedChannels:
        chosen = evenly(known.images.held_out, images)
        return RemovedChannels(
            self.pipeline.baseline,
            network,
            couplings,
            known.orders,
            known.moments,
            [batch for batch, _ in chosen.loader(batch_size(chosen))],
            multiple=pruning.multiple,
            divergence=partial(divergence_of, known.images.held_out.task),
            repaired=self.job.search.repair,
        )

    def _measured(
        self,
        known: OfBaseline,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        parts: Sequence[Part],
        pruning: Pruning,
    ) -> Table:
        selections, ahead = self._planned(parts), list[float | None]()
        images = self._images(known, parts)
        if self.helper is not None:
            is_room = psutil.virtual_memory().available > COPIES * sum(own.bytes for own in known.moments.values())
            self.helper.offer(len(selections) if is_room else 0)
        removed = self._removed(known, network, couplings, pruning, images)

        def measure(selection: Selection) -> float:
            clock.breathe()
            self.progress(min(1.0, (clock() - began) / seconds), text)
            return removed.measure(removed.keep(parts, selection))

        def measured(selection: Selection) -> float:
            known = ahead[selections.index(dict(selection))] if ahead and dict(selection) in selections else None
            return measure(selection) if known is None else known

        text = "measuring channel importance"
        self.progress(0.0, text)
        errors = {part.key: removed.errors(part).tolist() for part in parts}
        clock = WorkClock(self.breathe)
        seconds, began = table_seconds(self.job), clock()
        if self.helper is not None:
            ahead += self.helper.cells(selections, measure, began + seconds, clock.breathe, clock)
        thorough = is_thorough(self.job)
        return proposals.measure(
            parts, measured, errors=errors, deadline=began + seconds, clock=clock, thorough=thorough
        )


class WorkClock:
    """Seconds of work, without the time in which trials were measured.

    A search of a slow network would otherwise spend the time for tables on waiting, measure hardly
    any cell, and propose to prune hardly any coupling.
    """

    def __init__(self, breathe: Callable[[], None]) -> None:
        """``breathe`` waits while a trial is measured."""
        self._breathe, self._waited = breathe, 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._waited

    def breathe(self) -> None:
        """Waits while a trial is measured; this time does not count."""
        began = time.monotonic()
        self._breathe()
        self._waited += time.monotonic() - began


def is_thorough(job: Job) -> bool:
    """Whether the job allows enough minutes for further cells."""
    return job.budget.minutes is not None and job.budget.minutes >= THOROUGH_MINUTES


def table_seconds(job: Job) -> float:
    """The time limit for tables in seconds."""
    if job.budget.minutes is None:
        return QUICK_SECONDS
    seconds = 60 * job.budget.minutes
    return max(min(QUICK_SECONDS, SHARE * seconds), min(MOST_SECONDS, LONG_SHARE * seconds))

"""Measures the tables of a job: losses of couplings at each width, and costs of widths."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocompress import models, proposals
from autocompress.compression.candidate import Candidate
from autocompress.compression.pipeline import Pipeline
from autocompress.compression.structural import OfBaseline
from autocompress.contract import Coupling, Deployable, Device, Value
from autocompress.devices import layer_times
from autocompress.devices.lock import MachineLock
from autocompress.export import tap_crop
from autocompress.files import digest
from autocompress.forking import may_fork
from autocompress.graph import NetworkFacts, facts
from autocompress.job import Job
from autocompress.proposals import (
    Correction,
    LatencyModel,
    Layer,
    Part,
    Problem,
    Profile,
    RemovedChannels,
    Table,
    probes,
)
from autocompress.proposals.costed import CostedLayers, work
from autocompress.proposals.probes import BegunProbes, ProbeBuilder
from autocompress.proposals.shares import KEEP, ShareRecipes
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.recipes.recipe import Recipe

VERSION = "1"
"""Version of the tables, part of their key."""
PROBES_VERSION = "2"
MOST_DIVERGENCE = 0.25
"""Largest KL divergence from the baseline of a proposal, in nats."""
SHARE = 0.2
"""Largest share of the minutes of the search for tables."""
MOST_SECONDS = 30.0
"""Most seconds for tables where the search has no limit."""
BATCH = 256
"""Images per batch for tables."""
Progress = Callable[[float, str], None]
log = logging.getLogger("autocompress.proposals")


def _nothing() -> None:
    """The default of ``breathe``."""


def _silent(done: float, text: str) -> None:
    """The default of ``progress``."""


@dataclass(frozen=True)
class Tables:
    """The tables of a job.

    Attributes:
        problem: parts, divergences of their choices, and costs.
        table: divergences, for the report.
        neutral: the values of a recipe that keeps all channels; proposals change these.
        groups: group of each coupling.
        errors: by cost, relative error of predictions; NaN where it is not known.
        wholes: by cost, the cost of the baseline in the unit of the problem. A missing cost cannot
            be bounded yet.
        amounts: by cost, the cost of the baseline in the unit of bounds of a job.
        first: the cost of the budgets of the sampler, over which proposals are spread too.
        correction: of predicted divergences.
    """

    problem: Problem
    table: Table
    neutral: Mapping[str, Value]
    groups: Mapping[str, str]
    errors: Mapping[str, float]
    wholes: Mapping[str, float]
    amounts: Mapping[str, float]
    first: str = "latency"
    correction: Correction = field(default_factory=Correction)

    def widths(self, budget: float, tilts: Mapping[str, float]) -> dict[str, float]:
        """The shares of channels to keep for a draw of a sampler, by name of the parameter.

        Args:
            budget: the first cost as a share of that of the full network.
            tilts: by group, a factor on the losses of its couplings.

        Returns:
            Shares of all couplings with a measured table; the sampler draws the others.
        """
        name = self.first
        bound = budget * self.problem.cost(name, self.problem.neutral())
        own = {part.key: tilts.get(self.groups[part.name], 1.0) for part in self.problem.parts}
        found = proposals.allocate(self.problem, {name: bound}, tilts=own)
        lacking = {part.name for part in self.problem.parts if part.key in self.table.unmeasured}
        found_shares = self.shares(found.indices)
        return {name: share for name, share in found_shares.items() if name.removeprefix(KEEP) not in lacking}

    def indices(self, shares: Mapping[str, Value]) -> tuple[int, ...] | None:
        """The choices for ``prune.keep`` of a recipe; None where a share is not a choice."""
        found = []
        for part in self.problem.parts:
            share = shares.get(KEEP + part.name, 1.0)
            if share not in part.choices:
                return None
            found.append(part.choices.index(share))
        return tuple(found)

    def shares(self, indices: Sequence[int]) -> dict[str, float]:
        """``prune.keep`` of each coupling for these choices."""
        return {KEEP + part.name: float(part.choices[at]) for part, at in zip(self.problem.parts, indices, strict=True)}

    def rows(self) -> list[dict[str, Any]]:
        """The table as rows."""
        return [{**row, "group": self.groups[row["name"]]} for row in self.table.rows(self.problem.parts)]


@dataclass
class TableMaker:
    """Measures the tables of a job.

    Attributes:
        job: of the search.
        recipes: makes recipes from shares of channels.
        pipeline: makes a candidate from a recipe.
        device: measures latency.
        baseline: the file of the baseline.
        export: writes the file of a candidate.
        costs_key: everything that decides costs on this machine.
        lock: the machine lock. Computing holds it shared and gives way to measurements.
        progress: called with the progress of long steps.
        breathe: called often, while the lock is held shared or not held.
        notes: for the user, about the tables.
        begun: probes that a forked process builds; None where this process does.
    """

    job: Job
    recipes: ShareRecipes
    pipeline: Pipeline
    device: Device
    baseline: Deployable
    export: Callable[[Candidate, Path], Deployable]
    costs_key: Any
    lock: MachineLock
    progress: Progress = _silent
    breathe: Callable[[], None] = _nothing
    notes: list[str] = field(default_factory=list)
    begun: BegunProbes | None = None

    def begin(self) -> None:
        """Lets a forked process build the probes, where that is safe and they are not profiled yet.

        It must be called in the main thread, before other threads work.
        """
        default, neutral = self.recipes.default, self.recipes.neutral
        is_able = self.device.formats == {"onnx"} and may_fork()
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
        widths = CostedLayers.of(self._layers_of_files(network, couplings), parts, couplings, pruning.multiple)
        points = probes.points(parts, widths.factors(work))
        if not self.pipeline.store.has(self._probes_key(neutral, parts, points)):
            self.begun = BegunProbes.begun(self._builder, parts, points)

    def end(self) -> None:
        """Removes the files of the probes."""
        if self.begun is not None:
            self.begun.end()

    @property
    def _builder(self) -> ProbeBuilder:
        return ProbeBuilder(self.recipes, self.pipeline, self.export)

    def tables(self) -> Tables | None:
        """Measures losses of couplings and costs of widths, once per baseline and machine.

        None where no pruner acts, or there are no images.
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
        couplings = [c for c in prunable(model, pruning.mode) if c.name in known.orders]
        parts = self.recipes.parts(couplings, pruning.multiple)
        if not parts:
            return None
        network = facts(model, models.input_size(model))
        own = [] if self.job.search.repair else ["unrepaired"]
        key = digest("tables", VERSION, known.key, pruning.multiple, [list(part.choices) for part in parts], *own)

        def make() -> Any:
            return {"table": self._measured(known, network, couplings, parts, pruning).state()}

        with self.lock.shared():
            table = Table.from_state(self.pipeline.store.made(key, make, self.breathe)["table"])
        divergences = {part.key: table.divergences(part) for part in parts}
        costs, fixed, errors = self._costs(neutral, network, couplings, parts, pruning)
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

    def _measured(
        self,
        known: OfBaseline,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        parts: Sequence[Part],
        pruning: Pruning,
    ) -> Table:
        removed = RemovedChannels(
            self.pipeline.baseline,
            network,
            couplings,
            known.orders,
            known.moments,
            [images for images, _ in known.images.held_out.loader(BATCH)],
            multiple=pruning.multiple,
            repaired=self.job.search.repair,
        )

        def measured(selection: Mapping[str, int]) -> float:
            self.breathe()
            self.progress(min(1.0, (time.monotonic() - began) / seconds), text)
            return removed.measure(removed.keep(parts, selection))

        seconds, began = table_seconds(self.job), time.monotonic()
        text = "measuring channel importance"
        self.progress(0.0, text)
        return proposals.measure(
            parts,
            measured,
            errors={part.key: removed.errors(part).tolist() for part in parts},
            deadline=time.monotonic() + seconds,
        )

    # --- costs ------------------------------------------------------------------------------------

    def _costs(
        self,
        neutral: Recipe,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        parts: Sequence[Part],
        pruning: Pruning,
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
        """Factors, constants and errors of each cost; latency comes first."""
        widths = CostedLayers.of(proposals.layers_of(network, couplings), parts, couplings, pruning.multiple)
        of_files = replace(widths, layers=self._layers_of_files(network, couplings))
        bits = 8.0 if neutral.bits else 32.0
        formulas = {"macs": proposals.macs, "params": proposals.parameters, "energy": proposals.macs}
        costs = {name: widths.factors(cost) for name, cost in formulas.items()}
        costs["size"] = of_files.factors(proposals.size_bytes(bits))
        fixed = dict.fromkeys(costs, 0.0)
        profiles = self._profiles(neutral, network, of_files, probes.points(parts, of_files.factors(work)))
        if len(profiles) < 2:
            self.notes.append("latency could not be profiled, so predictions take it as proportional to multiply-adds")
            whole = sum(float(factor.table[(0,) * factor.table.ndim]) for factor in costs["macs"])
            shares = [replace(factor, table=factor.table / whole) for factor in costs["macs"]]
            return {"latency": shares, **costs}, {"latency": 0.0, **fixed}, {}
        fitted = LatencyModel.fit(of_files.layers, profiles)
        factors, rest = fitted.factors(of_files.layers, parts, of_files.kept)
        return {"latency": factors, **costs}, {"latency": rest, **fixed}, {"latency": fitted.error}

    def _layers_of_files(self, network: NetworkFacts, couplings: Sequence[Coupling]) -> list[Layer]:
        """The layers with the kernel taps that candidates' files have."""
        layers = proposals.layers_of(network, couplings)
        crop = tap_crop(network, self.pipeline.baseline).layers if self.job.search.crop else {}
        return [replace(layer, taps=crop[layer.name].taps) if layer.name in crop else layer for layer in layers]

    def _profiles(
        self, neutral: Recipe, network: NetworkFacts, widths: CostedLayers, points: Sequence[Sequence[int]]
    ) -> list[Profile]:
        """Layer times of the probes.

        Times are shares of the latency of the baseline, because they are measured together.
        """
        parts, kept = widths.parts, widths.kept

        def make() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                built = self._built(parts, points, Path(folder))
                files = [self.baseline, *(file for _, file in built)]
                times = layer_times(self.device, files, list(network.layers), self.job.device) or []
            whole = times[0].total if times else 1.0
            found = []
            for (indices, _), own in zip(built, times[1:], strict=False):
                shares = {part.name: kept[part.name][at] for part, at in zip(parts, indices, strict=True)}
                seconds = {name: value / whole for name, value in own.layers.items()}
                found.append([proposals.layer_widths(widths.layers, shares), seconds, own.total / whole])
            return {"profiles": found}

        return [
            Profile({name: (pair[0], pair[1]) for name, pair in own.items()}, seconds, total)
            for own, seconds, total in self.pipeline.store.made(
                self._probes_key(neutral, parts, points), make, self.breathe
            )["profiles"]
        ]

    def _built(self, parts: Sequence[Part], points: Sequence[Sequence[int]], folder: Path) -> probes.Built:
        """The files of the probes, from the forked process if there is one."""
        text = "profiling the latency of channel widths"
        self.progress(0.0, text)
        if self.begun is not None and (known := self.begun.built(parts, points, self.breathe)):
            return known

        def tell(number: int) -> None:
            self.breathe()
            self.progress(number / len(points), text)

        return self._builder.build(parts, points, folder, self.lock, tell)

    def _probes_key(self, neutral: Recipe, parts: Sequence[Part], points: Sequence[Sequence[int]]) -> str:
        own = [list(part.choices) for part in parts]
        asked = [dict(neutral.values), own, [list(point) for point in points], self.job.search.crop]
        return digest("probes", PROBES_VERSION, self.pipeline.baseline_key, asked, self.costs_key)


def table_seconds(job: Job) -> float:
    """The time limit for tables in seconds."""
    minutes = job.budget.minutes
    return MOST_SECONDS if minutes is None else min(MOST_SECONDS, SHARE * 60 * minutes)

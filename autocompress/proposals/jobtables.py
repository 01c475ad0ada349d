"""Tables of a job: what each coupling loses at each width, and what widths cost here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autocompress import models, proposals
from autocompress.compression.candidate import Candidate
from autocompress.compression.pipeline import Pipeline
from autocompress.compression.structural import OfBaseline
from autocompress.contract import Coupling, Deployable, Device, Value
from autocompress.devices import layer_times
from autocompress.devices.lock import MachineLock
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.job import Job
from autocompress.proposals import LatencyModel, Layer, Part, Problem, Profile, RemovedChannels, Table
from autocompress.proposals.shares import KEEP, ShareRecipes
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.recipes.recipe import Recipe

VERSION = "1"
PROBES = 5
WEIGHT_WORK = 8
"""Multiply-adds that reading a weight counts for, where probes are chosen: small networks read
weights, mostly.
"""
MOST_DIVERGENCE = 0.25
"""KL to the baseline, in nats, beyond which nothing is proposed."""
SHARE = 0.2
"""Of the search's minutes, that tables may take."""
MOST_SECONDS = 30.0
"""That tables may take where the search has no limit."""
BATCH = 256
"""Images in one pass of a table's network."""
Progress = Callable[[float, str], None]


def _nothing() -> None:
    """Nobody waits."""


def _silent(done: float, text: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Tables:
    """What was measured of a job's network.

    Attributes:
        problem: parts, what their choices lose, and what they cost.
        table: divergences, for the report.
        neutral: a recipe's values with all channels kept: what proposals have in common.
        groups: group of each coupling.
        error: relative error of predicted latency; NaN where it is not known.
    """

    problem: Problem
    table: Table
    neutral: Mapping[str, Value]
    groups: Mapping[str, str]
    error: float

    def widths(self, budget: float, tilts: Mapping[str, float]) -> dict[str, float]:
        """The shares that a sampler's draw stands for, by name of the parameter.

        Args:
            budget: latency as a share of the full network's.
            tilts: by group, a factor on what its couplings lose.
        """
        name = next(iter(self.problem.costs))
        bound = budget * self.problem.cost(name, self.problem.neutral())
        own = {part.key: tilts.get(self.groups[part.name], 1.0) for part in self.problem.parts}
        found = proposals.allocate(self.problem, {name: bound}, tilts=own)
        return self.shares(found.indices)

    def shares(self, indices: Sequence[int]) -> dict[str, float]:
        """``prune.keep`` of each coupling at these choices."""
        return {KEEP + part.name: float(part.choices[at]) for part, at in zip(self.problem.parts, indices, strict=True)}

    def rows(self) -> list[dict[str, Any]]:
        """The table as rows."""
        return list(self.table.rows(self.problem.parts))


@dataclass
class TableMaker:
    """Measures the tables of a job.

    Attributes:
        job: of the search.
        recipes: of the job's space, by the shares that couplings keep.
        pipeline: recipe -> candidate.
        device: gives latency.
        baseline: the baseline's file.
        export: writes a candidate's file.
        costs_key: what decides costs on this machine.
        lock: of the machine; computing holds it shared, and lets measurements go first.
        progress: told of what takes long.
        breathe: called often, while the lock is held shared or not at all.
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

    def tables(self) -> Tables | None:
        """Measures what couplings lose and widths cost, once for a baseline and machine.

        None where no pruner acts, or there are no images.
        """
        default, neutral = self.recipes.default, self.recipes.neutral
        if default is None or default.prune is None or neutral is None or self.pipeline.transfer_set(default) is None:
            return None
        self.progress(0.0, "measuring what the layers read")
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
        key = digest("tables", VERSION, known.key, pruning.multiple, [list(part.choices) for part in parts])

        def make() -> Any:
            return {"table": self._measured(known, network, couplings, parts, pruning).state()}

        with self.lock.shared():
            table = Table.from_state(self.pipeline.store.made(key, make, self.breathe)["table"])
        divergences = {part.key: table.divergences(part) for part in parts}
        costs, fixed, error = self._costs(neutral, network, couplings, parts, pruning, divergences)
        groups = models.groups(model, self.job.granularity)
        return Tables(
            Problem(tuple(parts), divergences, costs, fixed),
            table,
            neutral.values,
            {part.name: models.group_of(part.name, groups) for part in parts},
            error,
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
        )

        def measured(selection: Mapping[str, int]) -> float:
            self.breathe()
            return removed.measure(removed.keep(parts, selection))

        minutes = self.job.budget.minutes
        seconds = MOST_SECONDS if minutes is None else min(MOST_SECONDS, SHARE * 60 * minutes)
        self.progress(0.0, "measuring what each layer's channels are worth")
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
        divergences: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, Any], dict[str, float], float]:
        """Factors of each cost, what no choice changes, and the error of latency.

        Latency comes first.
        """
        layers = proposals.layers_of(network, couplings)
        by_name = {coupling.name: coupling for coupling in couplings}
        kept = {part.name: proposals.kept_shares(part, by_name[part.name], pruning.multiple) for part in parts}
        bits = 8.0 if neutral.bits else 32.0
        formulas = {
            "macs": proposals.macs,
            "params": proposals.parameters,
            "size": proposals.size_bytes(bits),
            "energy": proposals.macs,
        }
        costs = {name: proposals.factors(layers, parts, kept, cost) for name, cost in formulas.items()}
        fixed = dict.fromkeys(costs, 0.0)
        work = proposals.factors(layers, parts, kept, lambda widths: widths.macs + WEIGHT_WORK * widths.weights)
        points = proposals.probe_points(
            Problem(tuple(parts), divergences, {"work": work}, {}), "work", PROBES, most_divergence=MOST_DIVERGENCE
        )
        profiles = self._profiles(neutral, network, layers, parts, kept, points)
        if len(profiles) < 2:
            return {"latency": costs["macs"], **costs}, {"latency": 0.0, **fixed}, float("nan")
        fitted = LatencyModel.fit(layers, profiles)
        factors, rest = fitted.factors(layers, parts, kept)
        return {"latency": factors, **costs}, {"latency": rest, **fixed}, fitted.error

    def _profiles(
        self,
        neutral: Recipe,
        network: NetworkFacts,
        layers: Sequence[Layer],
        parts: Sequence[Part],
        kept: Mapping[str, Sequence[float]],
        points: Sequence[Sequence[int]],
    ) -> list[Profile]:
        """Layer times of a few networks of other widths, whose weights mean nothing.

        Times are shares of the baseline's latency, since they are measured beside it."""

        def make() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                files = [self.baseline]
                for number, indices in enumerate(points):
                    self.progress(number / len(points), "measuring what widths cost")
                    with self.lock.shared():
                        files += self._probe(parts, indices, Path(folder) / f"probe{number}.onnx")
                        self.breathe()
                times = layer_times(self.device, files, list(network.layers), self.job.device) or []
            whole = times[0].total if times else 1.0
            found = []
            for indices, own in zip(points, times[1:], strict=False):
                shares = {part.name: kept[part.name][at] for part, at in zip(parts, indices, strict=True)}
                seconds = {name: value / whole for name, value in own.layers.items()}
                found.append([proposals.layer_widths(layers, shares), seconds, own.total / whole])
            return {"profiles": found}

        own = [list(part.choices) for part in parts]
        asked = [dict(neutral.values), own, [list(point) for point in points]]
        key = digest("probes", VERSION, self.pipeline.baseline_key, asked, self.costs_key)
        return [
            Profile({name: (pair[0], pair[1]) for name, pair in widths.items()}, seconds, total)
            for widths, seconds, total in self.pipeline.store.made(key, make, self.breathe)["profiles"]
        ]

    def _probe(self, parts: Sequence[Part], indices: Sequence[int], file: Path) -> list[Deployable]:
        shares = {KEEP + part.name: float(part.choices[at]) for part, at in zip(parts, indices, strict=True)}
        recipe = self.recipes.recipe(shares)
        return [] if recipe is None else [self.export(self.pipeline.run(recipe, dry_run=True), file)]

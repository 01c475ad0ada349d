"""Proposals for a job: recipes allocated from measured tables (docs/proposals.md)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autocompress import models, proposals
from autocompress.compression import prune
from autocompress.compression.jobspace import JobSpace
from autocompress.compression.pipeline import Candidate, Pipeline
from autocompress.compression.prune import Pruning
from autocompress.compression.recipe import Fixed, Policy, Recipe
from autocompress.compression.structural import OfBaseline
from autocompress.contract import Coupling, Deployable, Device, Parameter, Quantizer, Value
from autocompress.contract.space import Chooser
from autocompress.devices import layer_times
from autocompress.devices.lock import MachineLock
from autocompress.errors import InvalidRecipe
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.job import Job
from autocompress.proposals import LatencyModel, Layer, Part, Problem, Profile, RemovedChannels, Table

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
TILTED = 8
"""Further recipes, with tilts that are drawn."""
LEAST_BUDGET = 1 / 12
"""Of the full cost, for these."""
WORTH_TRAINING = 0.03
"""Predicted KL from which on training gains something."""
BATCH = 256
"""Images in one pass of a table's network."""
KEEP, MODE = "prune.keep.", "prune.mode"
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


@dataclass(frozen=True)
class Proposed:
    """What a search gets.

    Attributes:
        recipes: labels and values, the most wanted first.
        widths: from a budget (share of the full latency) and tilts by group to ``prune.keep`` of
            each coupling.
        groups: that have a tilt.
        rows: the table, for ``tables.csv``.
    """

    recipes: Sequence[tuple[str, dict[str, Value]]]
    widths: Callable[[float, Mapping[str, float]], dict[str, float]]
    groups: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


@dataclass
class Proposer:
    """Measures tables and makes recipes of them.

    Attributes:
        job: of the search.
        space: of its recipes.
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
    space: JobSpace
    pipeline: Pipeline
    device: Device
    baseline: Deployable
    export: Callable[[Candidate, Path], Deployable]
    costs_key: Any
    lock: MachineLock
    progress: Progress = _silent
    breathe: Callable[[], None] = _nothing

    # --- what can be proposed ---------------------------------------------------------------------

    @cached_property
    def _default(self) -> Recipe | None:
        """A recipe that prunes by default, with nothing trained; None where PRUNE cannot act."""
        recipe = self._compose({}, Policy({**self._rules, "prune": "default"}))
        return recipe if recipe is not None and recipe.prune is not None else None

    @cached_property
    def _neutral(self) -> Recipe | None:
        """The recipe that proposals change: the same, with all channels."""
        return self._compose({}, _Widest(Policy({**self._rules, "prune": "default"})))

    @property
    def _rules(self) -> dict[str, str]:
        quantizers = [method.name for method in self.space.methods if isinstance(method, Quantizer)]
        return dict.fromkeys(["bits", *quantizers], "default")

    def _compose(self, values: Mapping[str, Value], otherwise: Chooser) -> Recipe | None:
        fixed: dict[str, Value] = {MODE: "group", "recover.epochs": 0, "qat.epochs": 0, **values}
        with suppress(InvalidRecipe):
            return self.space.compose(Fixed(fixed, otherwise))
        return None

    def _recipe(self, shares: Mapping[str, Value]) -> Recipe | None:
        assert self._neutral is not None
        return self._compose({**self._neutral.values, **shares}, Policy({}, "default"))

    def _parts(self, couplings: Sequence[Coupling], multiple: int) -> list[Part]:
        """A part for each coupling that may stay whole and may lose channels, with the shares that
        limits leave.
        """
        known = self.space.parameters()
        found = []
        for coupling in couplings:
            parameter = known.get(KEEP + coupling.name)
            shares = [share for share in proposals.SIXTEENTHS if parameter is not None and parameter.contains(share)]
            if shares and shares[0] == 1.0:
                part = proposals.structure_part(coupling, multiple, shares)
                found += [part] if len(part.choices) > 1 else []
        return found

    # --- measuring --------------------------------------------------------------------------------

    def tables(self) -> Tables | None:
        """Measures what each coupling loses and what widths cost, once for a baseline and machine;
        None where nothing can be proposed: no pruner acts, or there are no images."""
        default, neutral = self._default, self._neutral
        if default is None or default.prune is None or neutral is None or self.pipeline.transfer_set(default) is None:
            return None
        self.progress(0.0, "measuring what the layers read")
        with self.lock.shared():
            known = self.pipeline.of_baseline(default, self.progress, self.breathe)
        if not known.images.enough or not len(known.images.held_out):
            return None
        model, pruning = self.pipeline.baseline, default.prune
        couplings = [c for c in prune.offered(model, pruning.mode) if c.name in known.orders]
        parts = self._parts(couplings, pruning.multiple)
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
        recipe = self._recipe(shares)
        return [] if recipe is None else [self.export(self.pipeline.run(recipe, dry_run=True), file)]

    # --- recipes ----------------------------------------------------------------------------------

    def propose(self) -> Proposed | None:
        """Tables and recipes; None where nothing can be proposed."""
        tables = self.tables()
        if tables is None:
            return None
        groups = list(dict.fromkeys(tables.groups.values()))
        return Proposed(self.recipes(tables), tables.widths, groups, tables.rows())

    def recipes(self, tables: Tables) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of recipes for a dozen budgets, those at constraints first, then from
        the whole range.
        """
        problem = tables.problem
        wanted = [name for name in self.job.objectives if name in problem.costs] or ["latency"]
        made = proposals.propose(
            problem,
            wanted,
            bounds=self._bounds(problem),
            margin=0.0 if np.isnan(tables.error) else tables.error,
            most_divergence=MOST_DIVERGENCE,
        )
        bounded = [proposal for proposal in made if proposal.at_constraint]
        others = [proposal for proposal in made if proposal not in bounded and any(proposal.allocation.indices)]
        found: list[tuple[str, dict[str, Value]]] = []
        chosen = [*(proposal.allocation for proposal in (*bounded, *_spread(others))), *self._tilted(tables, wanted[0])]
        for allocation in {allocation.indices: allocation for allocation in chosen}.values():
            recipe = self._recipe(tables.shares(allocation.indices))
            if recipe is not None and recipe.prune is not None:
                share = allocation.costs[wanted[0]] / problem.cost(wanted[0], problem.neutral())
                found.append((f"proposal at {share:.2f} of the {wanted[0]}", dict(recipe.values)))
        return [*found, *self._trained(tables, chosen[: len(made)])]

    def _tilted(self, tables: Tables, cost: str) -> Iterator[proposals.Allocation]:
        """Allocations for drawn budgets, with the losses of each group counted for more or less
        than measured.
        """
        problem, generator = tables.problem, np.random.default_rng(self.job.seed)
        full = problem.cost(cost, problem.neutral())
        least = max(proposals.smallest(problem, cost), LEAST_BUDGET * full)
        for _ in range(TILTED):
            budget = float(np.exp(generator.uniform(np.log(least), np.log(full))))
            tilts = proposals.draw_tilts(problem, tables.groups, generator)
            yield proposals.allocate(problem, {cost: budget}, tilts=tilts)

    def _trained(
        self, tables: Tables, allocations: Sequence[proposals.Allocation]
    ) -> Iterator[tuple[str, dict[str, Value]]]:
        """The deep ones again, with an epoch of RECOVER: it pays where a refit leaves much."""
        deep = [own for own in allocations if WORTH_TRAINING < own.divergence <= MOST_DIVERGENCE]
        for allocation in sorted(deep, key=lambda own: own.divergence):
            shares = tables.shares(allocation.indices)
            recipe = self._recipe({**shares, "recover.epochs": 1})
            if recipe is not None and recipe.recover.get("epochs"):
                yield "proposal, with an epoch of training", dict(recipe.values)

    def _bounds(self, problem: Problem) -> dict[str, float]:
        """The job's bounds in the units of the problem's costs; those that cannot be told in them
        are left out.
        """
        wholes = {
            "latency": 1.0,  # latencies are shares of the baseline's
            "size": float(self.baseline.file.stat().st_size),
            **{name: problem.cost(name, problem.neutral()) for name in ("macs", "params")},
        }
        bounds = {name: bound for name, bound in self.job.constraints.bounds().items() if name in wholes}
        found = {name: bound.value * wholes[name] for name, bound in bounds.items() if bound.relative}
        return found | {n: bound.value for n, bound in bounds.items() if not bound.relative and n != "latency"}


class _Widest:
    """Keeps every channel, and leaves the rest to another chooser."""

    def __init__(self, otherwise: Policy) -> None:
        self._otherwise = otherwise

    def choose(self, parameter: Parameter) -> Value:
        keeps = parameter.name.startswith(KEEP) and parameter.contains(1.0)
        return 1.0 if keeps else self._otherwise.choose(parameter)


def _spread(made: Sequence[proposals.Proposal]) -> list[proposals.Proposal]:
    """The same proposals, from all over the range early: the middle first, then the quarters, and
    so on.
    """
    order: list[int] = []
    step = len(made)
    while len(order) < len(made):
        step = max(1, step // 2)  # with 1, all that are left
        order += [at for at in range(step - 1, len(made), step) if at not in order]
    return [made[at] for at in order]

"""Makes the proposals of a job: recipes by allocation from tables (docs/proposals.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from autocompress import proposals
from autocompress.contract import Value
from autocompress.proposals.jobtables import MOST_DIVERGENCE, Tables
from autocompress.proposals.tablemaker import TableMaker

BETWEEN = 5
"""How many budgets more there are each time that proposals are made again.

With another number of budgets, the budgets differ from the earlier ones.
"""
UNKNOWN_ERROR = 0.05
"""Relative error of a predicted cost where it is not known."""
TILTED = 8
"""Number of further recipes with random tilts."""
LEAST_BUDGET = 1 / 12
"""Lowest budget of the ``TILTED`` recipes, as a share of the full cost."""
FLOAT_COSTS = {"macs": 1.0, "params": 1.0, "size": 4.0}
"""Costs of a network in float, relative to the predicted costs of the same widths in int8."""
LITTLE_GAIN = 0.6
"""If the quantized network takes more than this share of the latency of the float baseline,
proposals are also tried in float. Small layers take longer in int8 than in float when they get
narrower.
"""
WORTH_TRAINING = 0.03
"""Predicted KL divergence above which a proposal with training is added."""


class NoProposals(Exception):
    """A method raised an error, so there are no proposals. The message is a note for the user."""


Point = tuple[str, dict[str, Value]]
"""Label and values of a recipe."""
Ratios = Callable[[Mapping[str, Value]], Mapping[str, float] | None]
Again = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], "Proposed | None"]


@dataclass(frozen=True)
class Proposed:
    """Proposals for a search.

    Attributes:
        recipes: labels and values, in the order in which to try them.
        widths: maps a budget (share of the full first cost objective) and tilts by group to
            ``prune.keep`` of each coupling.
        groups: the groups with a tilt.
        rows: the table, for ``tables.csv``.
        notes: notes for the user about the tables.
        again: makes new proposals from corrected tables, given the rows of trials and of the
            baseline. It returns None if no row can be used. If ``again`` itself is None, proposals
            are made only once.
        ratios: maps the values of a recipe to predicted costs of the objectives, as ratios to the
            baseline; None if the recipe differs from proposals in more than widths.
        error: the relative error of the prediction of the first cost objective.
    """

    recipes: Sequence[Point]
    widths: Callable[[float, Mapping[str, float]], dict[str, float]]
    groups: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    again: Again | None = None
    ratios: Ratios | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Proposer:
    """Makes recipes from the tables of a job.

    Attributes:
        maker: makes the tables.
    """

    maker: TableMaker

    def propose(self) -> Proposed | None:
        """Tables and recipes; None if nothing can be proposed."""
        tables = self.maker.tables()
        if tables is None:
            return None
        table = tables.table
        lacking = [part for part in tables.problem.parts if part.key in table.unmeasured]
        late = [part.name for part in lacking if not table.failed(part)]
        if names := [part.name for part in lacking if table.failed(part)]:
            text = f"{', '.join(names)} could not be measured: the sampler chooses their widths"
            self.maker.notes.append(text)
        if late:
            self.maker.notes.append(
                f"there was no time to measure {len(late)} of {len(tables.problem.parts)} couplings, so only the "
                f"sampler chooses their widths; more minutes, or another search on an idle machine, may find better "
                f"models: {', '.join(late)}"
            )
        if not self.maker.job.search.proposals:
            return self.proposed(tables, [])
        from autocompress.proposals.reproposing import Reproposer  # here, because it imports this module

        again = Reproposer(self, tables)
        error = _error(tables, tables.first)
        return replace(self.proposed(tables, self.recipes(tables)), again=again.again, ratios=again.ratios, error=error)

    def proposed(self, tables: Tables, recipes: Sequence[Point]) -> Proposed:
        """The proposals from ``tables``."""
        groups = list(dict.fromkeys(tables.groups.values()))
        return Proposed(recipes, tables.widths, groups, tables.rows(), tuple(self.maker.notes))

    def costs(self, tables: Tables) -> list[str]:
        """The costs that are traded for accuracy."""
        return [name for name in self.maker.job.objectives if name in tables.problem.costs] or ["latency"]

    def recipes(self, tables: Tables, *, step: int = 0, most: Mapping[str, float] | None = None) -> list[Point]:
        """Labels and values of recipes for a dozen budgets.

        Recipes for the job's bounds come first, then recipes for budgets over the whole range of
        costs. ``most`` lowers the upper end of that range. Another ``step`` gives other budgets.
        Recipes that are predicted to miss a bound by more than twice the error of the prediction
        are left out. If this leaves none, the recipe with the largest divergence is kept.
        """
        problem, bounds, wanted = tables.problem, self._bounds(tables), self.costs(tables)
        made = proposals.propose(
            problem,
            wanted,
            count=proposals.COUNT + BETWEEN * step,
            bounds=bounds,
            most=most,
            margin=_error(tables, "latency"),
            most_divergence=tables.correction.predicted(MOST_DIVERGENCE),
            seed=self.maker.job.seed + step,
        )
        within = [proposal for proposal in made if _is_within(proposal.allocation, bounds, tables)] or made[-1:]
        bounded = [proposal for proposal in within if proposal.at_constraint]
        others = [proposal for proposal in within if proposal not in bounded and any(proposal.allocation.indices)]
        found: list[Point] = []
        tilted = [] if step else [a for a in self._tilted(tables, wanted[0]) if _is_within(a, bounds, tables)]
        chosen = [*(proposal.allocation for proposal in (*bounded, *_spread(others))), *tilted]
        for allocation in {allocation.indices: allocation for allocation in chosen}.values():
            recipe = self.maker.recipes.recipe(tables.shares(allocation.indices))
            if recipe is not None and recipe.prune is not None:
                found.append((_label(tables, allocation, wanted[0]), dict(recipe.values)))
        if not step and self._gains_little(tables):
            found = _alternating(found, list(self._in_float(tables, made, bounds)))
        if self.maker.job.search.rungs:  # the search trains those that promise a gain
            return found
        return [*found, *self._trained(tables, chosen[: len(within)])]

    def _gains_little(self, tables: Tables) -> bool:
        """Whether quantization alone hardly makes the network faster on this device."""
        if "latency" not in {*self.maker.job.objectives, *self.maker.job.constraints.bounds()}:
            return False
        if "latency" not in tables.errors:  # it was not profiled
            return False
        return tables.problem.cost("latency", tables.problem.neutral()) > LITTLE_GAIN * tables.wholes["latency"]

    def _in_float(
        self, tables: Tables, made: Sequence[proposals.Proposal], bounds: Mapping[str, float]
    ) -> Iterator[Point]:
        """The proposals without quantization, if proposals are quantized; those at bounds first.

        Latency in float is not predicted. So the bound on latency is ignored here, even if the
        quantized recipe misses it.
        """
        neutral = self.maker.recipes.neutral
        if neutral is None or not neutral.bits:
            return
        known = {name: bound / FLOAT_COSTS[name] for name, bound in bounds.items() if name in FLOAT_COSTS}
        pruned = [own for own in made if any(own.allocation.indices) and _is_within(own.allocation, known, tables)]
        order = [*(own for own in pruned if own.at_constraint), *_spread(pruned)]
        for allocation in {own.allocation.indices: own.allocation for own in order}.values():
            recipe = self.maker.recipes.in_float(tables.shares(allocation.indices))
            if recipe is not None and recipe.prune is not None:
                yield f"{_label(tables, allocation, 'latency')}, in float", dict(recipe.values)

    def _tilted(self, tables: Tables, cost: str) -> Iterator[proposals.Allocation]:
        """Allocations for random budgets, with random tilts of groups."""
        problem, generator = tables.problem, np.random.default_rng(self.maker.job.seed)
        full = problem.cost(cost, problem.neutral())
        least = max(proposals.smallest(problem, cost), LEAST_BUDGET * full)
        for _ in range(TILTED):
            budget = float(np.exp(generator.uniform(np.log(least), np.log(full))))
            tilts = proposals.draw_tilts(problem, tables.groups, generator)
            yield proposals.allocate(problem, {cost: budget}, tilts=tilts)

    def _trained(self, tables: Tables, allocations: Sequence[proposals.Allocation]) -> Iterator[Point]:
        """The proposals with a large divergence again, with an epoch of training (RECOVER)."""
        deep = [own for own in allocations if WORTH_TRAINING < own.divergence <= MOST_DIVERGENCE]
        for allocation in sorted(deep, key=lambda own: own.divergence):
            shares = tables.shares(allocation.indices)
            recipe = self.maker.recipes.recipe({**shares, "recover.epochs": min(1, self.maker.job.budget.epochs)})
            if recipe is not None and recipe.recover.get("epochs"):
                yield "proposal, with an epoch of training", dict(recipe.values)

    def _bounds(self, tables: Tables) -> dict[str, float]:
        """The bounds of the job in the units of the problem; unknown ones are left out."""
        found = {}
        for name, bound in self.maker.job.constraints.bounds().items():
            amount = 1.0 if bound.relative else tables.amounts.get(name)
            if name in tables.wholes and amount is not None:
                found[name] = bound.value / amount * tables.wholes[name]
        return found


def _label(tables: Tables, allocation: proposals.Allocation, cost: str) -> str:
    """The label of a proposal, with its share of the cost of the quantized network."""
    share = allocation.costs[cost] / tables.problem.cost(cost, tables.problem.neutral())
    return f"proposal at {share:.2f} of the {cost}"


def _is_within(allocation: proposals.Allocation, bounds: Mapping[str, float], tables: Tables) -> bool:
    """Whether a candidate may meet the bounds, judged by its predicted costs."""
    return all(allocation.costs[name] <= bound * (1 + 2 * _error(tables, name)) for name, bound in bounds.items())


def _error(tables: Tables, name: str) -> float:
    """Relative error of a predicted cost."""
    error = tables.errors.get(name, float("nan"))
    return UNKNOWN_ERROR if np.isnan(error) else error


def _alternating(one: Sequence[Point], other: Sequence[Point]) -> list[Point]:
    """The items of both lists in turn, then the rest of the longer one."""
    return [item for pair in zip_longest(one, other) for item in pair if item is not None]


def _spread(made: Sequence[proposals.Proposal]) -> list[proposals.Proposal]:
    """The proposals in another order: the middle first, then the quarters, and so on."""
    order: list[int] = []
    step = len(made)
    while len(order) < len(made):
        step = max(1, step // 2)  # a step of 1 adds all that are left
        order += [at for at in range(step - 1, len(made), step) if at not in order]
    return [made[at] for at in order]

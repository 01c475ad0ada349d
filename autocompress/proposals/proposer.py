"""Proposals for a job: recipes allocated from measured tables (docs/proposals.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress import proposals
from autocompress.contract import Value
from autocompress.proposals import Problem
from autocompress.proposals.jobtables import MOST_DIVERGENCE, TableMaker, Tables

TILTED = 8
"""Further recipes, with tilts that are drawn."""
LEAST_BUDGET = 1 / 12
"""Of the full cost, for these."""
WORTH_TRAINING = 0.03
"""Predicted KL from which on training gains something."""


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


@dataclass(frozen=True)
class Proposer:
    """Makes recipes of a job's tables.

    Attributes:
        maker: of the tables.
    """

    maker: TableMaker

    def propose(self) -> Proposed | None:
        """Tables and recipes; None where nothing can be proposed."""
        tables = self.maker.tables()
        if tables is None:
            return None
        groups = list(dict.fromkeys(tables.groups.values()))
        return Proposed(self.recipes(tables), tables.widths, groups, tables.rows())

    def recipes(self, tables: Tables) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of recipes for a dozen budgets.

        Those at constraints come first, then those of the whole range.
        """
        problem = tables.problem
        wanted = [name for name in self.maker.job.objectives if name in problem.costs] or ["latency"]
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
            recipe = self.maker.recipes.recipe(tables.shares(allocation.indices))
            if recipe is not None and recipe.prune is not None:
                share = allocation.costs[wanted[0]] / problem.cost(wanted[0], problem.neutral())
                found.append((f"proposal at {share:.2f} of the {wanted[0]}", dict(recipe.values)))
        return [*found, *self._trained(tables, chosen[: len(made)])]

    def _tilted(self, tables: Tables, cost: str) -> Iterator[proposals.Allocation]:
        """Allocations for drawn budgets, with drawn factors on the losses of each group."""
        problem, generator = tables.problem, np.random.default_rng(self.maker.job.seed)
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
            recipe = self.maker.recipes.recipe({**shares, "recover.epochs": 1})
            if recipe is not None and recipe.recover.get("epochs"):
                yield "proposal, with an epoch of training", dict(recipe.values)

    def _bounds(self, problem: Problem) -> dict[str, float]:
        """The job's bounds in the units of the problem's costs, where they have such units."""
        wholes = {
            "latency": 1.0,  # latencies are shares of the baseline's
            "size": float(self.maker.baseline.file.stat().st_size),
            **{name: problem.cost(name, problem.neutral()) for name in ("macs", "params")},
        }
        bounds = {name: bound for name, bound in self.maker.job.constraints.bounds().items() if name in wholes}
        found = {name: bound.value * wholes[name] for name, bound in bounds.items() if bound.relative}
        return found | {n: bound.value for n, bound in bounds.items() if not bound.relative and n != "latency"}


def _spread(made: Sequence[proposals.Proposal]) -> list[proposals.Proposal]:
    """The same proposals in another order: the middle first, then the quarters, and so on."""
    order: list[int] = []
    step = len(made)
    while len(order) < len(made):
        step = max(1, step // 2)  # with 1, all that are left
        order += [at for at in range(step - 1, len(made), step) if at not in order]
    return [made[at] for at in order]

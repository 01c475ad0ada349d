"""Proposals: allocations for a dozen budgets, the first trials of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.proposals.allocation import Allocation, Problem, allocate, cheapest
from autocompress.proposals.choices import Choice

COUNT = 12
SMALLEST = 1 / 32
"""Of the full cost: the lowest budget that is proposed."""
HALVINGS = 5
"""Of the logarithm of a budget, to find the lowest useful one."""
NEAR = (1.0, 0.93)
"""A constraint is proposed for at these shares of its bound: as it is, and with room for an error.
"""


@dataclass(frozen=True)
class Proposal:
    """One recipe to try.

    Attributes:
        choices: for each part, by key, its choice.
        allocation: what is predicted of it.
        budgets: the bounds that it was made for.
        at_constraint: it was made for a constraint.
    """

    choices: Mapping[str, Choice]
    allocation: Allocation
    budgets: Mapping[str, float]
    at_constraint: bool = False


def propose(
    problem: Problem,
    objectives: Sequence[str],
    *,
    count: int = COUNT,
    bounds: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
    margin: float = 0.0,
    most_divergence: float = math.inf,
    seed: int = 0,
) -> list[Proposal]:
    """Allocations for budgets spread over all that is reachable.

    Budgets of one cost are equally spaced in the logarithm, between the full cost (or ``most``) and
    the smallest reachable one. With two costs or more, each budget bounds them all, in proportions
    that are drawn. Two budgets lie at each constraint.

    Args:
        problem: what is chosen.
        objectives: the costs to trade for divergence; the problem may hold more.
        count: how many budgets, besides those at constraints.
        bounds: constraints, in the unit of each cost.
        most: the largest budgets that are of use, in the unit of each cost.
        margin: relative standard error of costs: a constraint's second budget leaves that much
            room.
        most_divergence: the lowest budgets are those with about this divergence; constraints may be
            lower.
        seed: of the drawn proportions.

    Returns:
        Proposals whose choices differ, the mildest first. Constraints that nothing meets have the
        nearest allocation, which is not ``feasible``.
    """
    asked: list[dict[str, float]] = []
    generator = np.random.default_rng(seed)
    ranges = {name: _range(problem, name, most_divergence, (most or {}).get(name, math.inf)) for name in objectives}
    for step in range(count):
        share = step / max(count - 1, 1)
        budget = {}
        for name, (high, low) in ranges.items():
            tilt = 1.0 if len(objectives) == 1 else float(generator.uniform(0.5, 1.5))
            budget[name] = high * (low / high) ** min(share * tilt, 1.0)
        asked.append(budget)
    room = 1 - min(max(2 * margin, 1 - NEAR[1]), 0.25)
    for name, bound in (bounds or {}).items():
        if name in problem.costs:
            asked[:0] = [{**(bounds or {}), name: bound * share} for share in (NEAR[0], room)]
    constrained = len(asked) - count
    known = {tuple(sorted(budget.items())): (budget, place < constrained) for place, budget in enumerate(asked)}
    found: dict[tuple[int, ...], Proposal] = {}
    for budget, at_constraint in known.values():
        limits = {name: value for name, value in budget.items() if name in problem.costs}
        allocation = allocate(problem, limits)
        choices = chosen(problem, allocation.indices)
        found.setdefault(allocation.indices, Proposal(choices, allocation, limits, at_constraint))
    return sorted(found.values(), key=lambda proposal: proposal.allocation.divergence)


def probe_points(
    problem: Problem, name: str, count: int, *, most_divergence: float = math.inf, seed: int = 0
) -> list[tuple[int, ...]]:
    """Selections whose files are measured to learn what choices cost, as indices.

    The first is neutral, the second the smallest reachable. The others are allocations by a cost
    that is known without measuring, with drawn tilts: they lie near the proposals that follow. That
    matters, since a layer runs faster in a network that fits into a processor's cache.

    Args:
        problem: with the known cost.
        name: of the known cost.
        count: at least 2.
        most_divergence: as for :func:`propose`.
        seed: of the tilts.
    """
    generator = np.random.default_rng(seed)
    full = problem.cost(name, problem.neutral())
    low = _useful(problem, name, smallest(problem, name), most_divergence)
    points = [problem.neutral(), cheapest(problem, name).indices]
    for step in range(1, count - 1):
        budget = full * (low / full) ** (step / (count - 1))
        points.append(allocate(problem, {name: budget}, tilts=draw_tilts(problem, {}, generator)).indices)
    return points


def _range(problem: Problem, name: str, most_divergence: float, most: float) -> tuple[float, float]:
    """The largest and the smallest budget of one cost."""
    full = problem.cost(name, problem.neutral())
    low = _useful(problem, name, max(smallest(problem, name), SMALLEST * full), most_divergence)
    return max(low, min(full, most)), low


def _useful(problem: Problem, name: str, low: float, most_divergence: float) -> float:
    """The lowest budget of one cost, at least ``low``, whose allocation stays within the loss."""
    high = problem.cost(name, problem.neutral())
    if allocate(problem, {name: low}, rough=True).divergence <= most_divergence:
        return low
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if allocate(problem, {name: middle}, rough=True).divergence <= most_divergence:
            high = middle
        else:
            low = middle
    return high


def chosen(problem: Problem, indices: Sequence[int]) -> dict[str, Choice]:
    """The choices of a selection, by part key."""
    return {part.key: part.choices[index] for part, index in zip(problem.parts, indices, strict=True)}


def smallest(problem: Problem, name: str) -> float:
    """The smallest value of a cost that any choices reach: what a bound below it can be told."""
    return cheapest(problem, name).costs[name]


def draw_tilts(
    problem: Problem, stages: Mapping[str, str], generator: np.random.Generator, spread: float = 0.7
) -> dict[str, float]:
    """Random factors on divergences, one a stage, for :func:`allocate`.

    Args:
        problem: what is chosen.
        stages: stage of each part, by the part's name; parts of one stage are tilted alike.
        generator: of the draws.
        spread: standard deviation of the logarithm.
    """
    names = {part.key: stages.get(part.name, part.name) for part in problem.parts}
    drawn = {stage: math.exp(spread * generator.standard_normal()) for stage in dict.fromkeys(names.values())}
    return {key: drawn[stage] for key, stage in names.items()}

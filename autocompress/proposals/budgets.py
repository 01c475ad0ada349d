"""Makes allocations for a dozen budgets, which are the first trials of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.proposals.allocation import Allocation, allocate, cheapest
from autocompress.proposals.choices import Choice
from autocompress.proposals.problem import Problem

COUNT = 12
SMALLEST = 1 / 32
"""The lowest budget, as a share of the full cost."""
HALVINGS = 5
"""Bisection steps in the logarithm of a budget, to find the lowest useful one."""
NEAR = (1.0, 0.93)
"""Shares of the bound of a constraint that are budgets: the bound itself, and at most this."""


@dataclass(frozen=True)
class Proposal:
    """A proposed recipe.

    Attributes:
        choices: for each part, by key, its choice.
        allocation: with predicted divergence and costs.
        budgets: the bounds for which it was made.
        at_constraint: whether it was made for a constraint.
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
    """Allocations for budgets spread over the reachable range.

    Budgets of one cost are equally spaced in the logarithm, between the full cost (or ``most``) and
    the smallest reachable cost. With several costs, each budget bounds all of them, in random
    proportions. Each constraint gets two budgets.

    Args:
        problem: parts, divergences and costs.
        objectives: the costs to trade for divergence; the problem may have more.
        count: number of budgets, without those for constraints.
        bounds: constraints, in the unit of each cost.
        most: the largest useful budgets, in the unit of each cost.
        margin: relative standard error of costs. The second budget of a constraint is lower than
            its bound by two errors, by at least 7 % and at most 25 %.
        most_divergence: the lowest budgets have about this divergence; those for constraints may
            have more.
        seed: of the random proportions.

    Returns:
        Proposals with different choices, the smallest change first. A constraint that cannot be met
        has the nearest allocation, which is not ``feasible``.
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
    """Selections, as indices, whose files are measured to learn the costs of choices.

    The first is neutral, the second the smallest reachable. The others are allocations by a cost
    that is known without measuring, with random tilts. So they are near the later proposals, which
    matters because a layer is faster in a network that fits into the cache of the processor.

    Args:
        problem: has the known cost.
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
    """The lowest budget of one cost, at least ``low``, with an allocation within the loss."""
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
    """The smallest reachable value of a cost."""
    return cheapest(problem, name).costs[name]


def draw_tilts(
    problem: Problem, stages: Mapping[str, str], generator: np.random.Generator, spread: float = 0.7
) -> dict[str, float]:
    """Random factors on divergences, one per stage, for :func:`allocate`.

    Args:
        problem: with the parts.
        stages: stage of each part, by name of the part; parts of one stage have the same tilt.
        generator: of random numbers.
        spread: standard deviation of the logarithm.
    """
    names = {part.key: stages.get(part.name, part.name) for part in problem.parts}
    drawn = {stage: math.exp(spread * generator.standard_normal()) for stage in dict.fromkeys(names.values())}
    return {key: drawn[stage] for key, stage in names.items()}

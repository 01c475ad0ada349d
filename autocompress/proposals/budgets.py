"""Proposes recipes for a dozen budgets. They are the first trials of a search."""

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
"""Number of bisection steps for finding the lowest useful budget."""
NEAR = (1.0, 0.93)
"""The two budgets of a constraint, as shares of its bound. The second may be lower (``margin``)."""


@dataclass(frozen=True)
class Proposal:
    """A proposed recipe.

    Attributes:
        choices: choice of each part, by part key.
        allocation: the allocation, with its predicted divergence and costs.
        budgets: upper bounds of costs for which it was made.
        at_constraint: whether it was made for a constraint of the job.
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
    """Returns proposals for budgets that are spread over the reachable range.

    The logarithms of the budgets of one cost are equally spaced, between the full cost (or
    ``most``) and the lowest useful budget, which is at least ``SMALLEST`` of the full cost. With
    several costs, each budget bounds all of them, in random proportions. Each constraint gets two
    more budgets.

    Args:
        problem: parts, divergences and costs.
        objectives: the costs to trade for divergence; the problem may have more.
        count: number of budgets, without those for constraints.
        bounds: constraints, in the unit of each cost.
        most: the largest useful budgets, in the unit of each cost.
        margin: relative standard error of costs. The second budget of a constraint is below its
            bound by two such errors, but by at least 7 % and at most 25 %.
        most_divergence: approximate maximum divergence of the proposals; those for constraints may
            have more.
        seed: random seed for the proportions.

    Returns:
        Proposals with different choices, the smallest divergence first. If a constraint cannot be
        met, its proposal is the nearest allocation, which is not ``feasible``.
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
    """Returns selections whose files are measured to learn the costs of choices.

    The first selection changes nothing, and the second has the lowest reachable cost. The others
    are allocations for budgets of a cost that is known without measuring, with random tilts. So
    they resemble the later proposals. This matters because a layer is faster in a network that fits
    into the cache of the processor.

    Args:
        problem: problem with the known cost.
        name: name of the known cost.
        count: number of selections, at least 2.
        most_divergence: as for :func:`propose`.
        seed: random seed for the tilts.

    Returns:
        The index of the choice of each part, for each selection.
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
    """Returns the largest and the smallest budget of one cost."""
    full = problem.cost(name, problem.neutral())
    low = _useful(problem, name, max(smallest(problem, name), SMALLEST * full), most_divergence)
    return max(low, min(full, most)), low


def _useful(problem: Problem, name: str, low: float, most_divergence: float) -> float:
    """Returns the lowest budget of one cost, at least ``low``, that is useful.

    A budget is useful if the divergence of its allocation is at most ``most_divergence``.
    """
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
    """Returns the choices of a selection, by part key."""
    return {part.key: part.choices[index] for part, index in zip(problem.parts, indices, strict=True)}


def smallest(problem: Problem, name: str) -> float:
    """Returns the smallest reachable value of a cost."""
    return cheapest(problem, name).costs[name]


def draw_tilts(
    problem: Problem, stages: Mapping[str, str], generator: np.random.Generator, spread: float = 0.7
) -> dict[str, float]:
    """Draws random factors on divergences, one for each stage, for :func:`allocate`.

    Args:
        problem: problem with the parts.
        stages: stage of each part, by name of the part. Parts of one stage have the same factor,
            and a part without a stage has a factor of its own.
        generator: random number generator.
        spread: standard deviation of the logarithm of a factor.
    """
    names = {part.key: stages.get(part.name, part.name) for part in problem.parts}
    drawn = {stage: math.exp(spread * generator.standard_normal()) for stage in dict.fromkeys(names.values())}
    return {key: drawn[stage] for key, stage in names.items()}

"""Allocation within budgets.

Compared with brute force, with bounds on several costs, and fast at real sizes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from patience import slowness

from autocompress.proposals import Factor, Part, Problem, allocate, draw_tilts, probe_points, propose, smallest

WIDTHS = (6, 5, 4, 3, 2, 1)


def _problem(
    edges: Sequence[tuple[int, ...]], seed: int, parts: int = 4, choices: int = 6, extra: bool = False
) -> Problem:
    """Parts with convex and almost convex losses.

    Each edge is a layer whose cost is the product of its widths.
    """
    generator = np.random.default_rng(seed)
    own = tuple(Part(f"p{place}", "structure", tuple(range(choices, 0, -1))) for place in range(parts))
    losses = {}
    for part in own:
        steps = generator.uniform(0.1, 1.0, choices) * 4.0 ** np.arange(choices)
        losses[part.key] = np.cumsum(np.concatenate([[0.0], steps[: choices - 1]])) * generator.uniform(0.1, 3)
    width = np.arange(choices, 0, -1, dtype=float)

    def factor(edge: tuple[int, ...], weight: float) -> Factor:
        table = np.array(weight)
        for _ in edge:
            table = np.multiply.outer(table, width)
        return Factor(tuple(own[place].key for place in edge), table)

    costs = {"latency": [factor(edge, generator.uniform(0.5, 2)) for edge in edges]}
    if extra:
        costs["size"] = [factor(edge, generator.uniform(0.1, 5)) for edge in edges]
    return Problem(own, losses, costs, {"latency": 3.0})


def _brute(problem: Problem, bounds: Mapping[str, float]) -> float:
    sizes = [range(len(part.choices)) for part in problem.parts]
    return min(
        problem.divergence(indices)
        for indices in itertools.product(*sizes)
        if all(problem.cost(name, indices) <= bound for name, bound in bounds.items())
    )


CHAIN = ((0, 1), (1, 2), (2, 3))
RESIDUAL = ((0, 1), (1, 0), (0, 2), (2, 3), (3, 2), (0,))


@pytest.mark.parametrize("edges", [CHAIN, RESIDUAL, ((0, 1, 2), (2, 3))], ids=["chain", "residual", "concat"])
@pytest.mark.parametrize("seed", range(5))
def test_allocations_are_nearly_those_of_brute_force(edges: Sequence[tuple[int, ...]], seed: int) -> None:
    edges = [tuple(dict.fromkeys(edge)) for edge in edges]
    problem = _problem(edges, seed)
    full = problem.cost("latency", problem.neutral())
    ratios = []
    for share in (0.8, 0.6, 0.45, 0.3, 0.2, 0.12):
        best = _brute(problem, {"latency": share * full})
        found = allocate(problem, {"latency": share * full})
        assert found.feasible
        assert found.costs["latency"] <= share * full
        ratios.append(found.divergence / best if best else 1.0)
    assert max(ratios) <= 1.05
    assert np.median(ratios) <= 1.0 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_two_bounds_hold_at_once(seed: int) -> None:
    problem = _problem(CHAIN, seed, extra=True)
    bounds = {"latency": 0.5 * problem.cost("latency", (0,) * 4), "size": 0.4 * problem.cost("size", (0,) * 4)}
    found = allocate(problem, bounds)
    assert found.feasible
    assert all(found.costs[name] <= bound for name, bound in bounds.items())
    assert found.divergence <= 1.1 * _brute(problem, bounds)


def test_an_impossible_bound_gives_the_nearest_allocation() -> None:
    problem = _problem(CHAIN, 0)
    found = allocate(problem, {"latency": 1.0})
    assert not found.feasible
    assert found.indices == (5, 5, 5, 5)
    assert found.costs["latency"] == smallest(problem, "latency")


def test_a_bound_that_is_met_anyway_changes_nothing() -> None:
    problem = _problem(CHAIN, 0)
    assert allocate(problem, {"latency": 1e9}).indices == (0, 0, 0, 0)
    assert allocate(problem, {}).indices == (0, 0, 0, 0)


def test_choices_without_a_divergence_are_not_taken() -> None:
    problem = _problem(CHAIN, 1)
    losses = {key: values.copy() for key, values in problem.divergences.items()}
    losses["structure:p1"][1:] = np.nan
    found = allocate(Problem(problem.parts, losses, problem.costs, problem.fixed), {"latency": 30.0})
    assert found.indices[1] == 0
    assert found.feasible


def test_a_tilt_shifts_the_loss_to_other_parts() -> None:
    problem = _problem(CHAIN, 2)
    budget = {"latency": 0.4 * problem.cost("latency", problem.neutral())}
    plain, tilted = allocate(problem, budget), allocate(problem, budget, tilts={"structure:p0": 1e6})
    assert plain.indices[0] > 0
    assert tilted.indices[0] == 0
    assert tilted.feasible
    assert tilted.divergence >= plain.divergence


def test_tilts_are_drawn_per_stage() -> None:
    problem = _problem(CHAIN, 0)
    stages = {"p0": "one", "p1": "one", "p2": "two", "p3": "two"}
    tilts = draw_tilts(problem, stages, np.random.default_rng(0))
    assert tilts["structure:p0"] == tilts["structure:p1"] != tilts["structure:p2"]


def test_a_part_that_depends_on_all_others_is_allocated_too() -> None:
    """One layer reads all parts, so no order of elimination keeps the tables small."""
    parts = 6
    edges = [(0, 1, 2, 3, 4, 5), *((place,) for place in range(parts))]
    problem = _problem(edges, 3, parts=parts, choices=9)
    full = problem.cost("latency", problem.neutral())
    found = allocate(problem, {"latency": 0.3 * full})
    assert found.feasible
    for place in range(parts):  # no single change improves it
        for choice in range(9):
            other = (*found.indices[:place], choice, *found.indices[place + 1 :])
            assert problem.divergence(other) >= found.divergence or problem.cost("latency", other) > 0.3 * full


@pytest.mark.timing
def test_a_budget_of_a_resnet18_takes_a_fifth_of_a_second() -> None:
    """Twelve couplings with sixteen widths each, and four streams with two blocks each."""
    edges = []
    for stage in range(4):
        stream = 3 * stage
        if stage:
            edges += [(stream - 3, stream), (stream - 3, stream + 1), (stream + 1, stream)]
        edges += [(stream, stream + 1), (stream, stream + 2)]
    problem = _problem(edges, 0, parts=12, choices=16)
    full = problem.cost("latency", problem.neutral())
    began = time.process_time()
    for share in (0.7, 0.4, 0.2):
        assert allocate(problem, {"latency": share * full}).feasible
    assert (time.process_time() - began) / 3 <= 0.2 * slowness()


def test_proposals_differ_and_lie_near_constraints() -> None:
    problem = _problem(RESIDUAL[2:] + CHAIN, 4, choices=16)
    full = problem.cost("latency", problem.neutral())
    found = propose(problem, ["latency"], bounds={"latency": 0.5 * full}, margin=0.05)
    assert len({proposal.allocation.indices for proposal in found}) == len(found) >= 10
    divergences = [proposal.allocation.divergence for proposal in found]
    assert divergences == sorted(divergences)
    costs = [proposal.allocation.costs["latency"] / full for proposal in found]
    assert any(0.85 * 0.5 <= cost <= 0.9 * 0.5 for cost in costs)
    assert any(0.92 * 0.5 <= cost <= 0.5 for cost in costs)
    assert set(found[0].choices) == {part.key for part in problem.parts}


def test_proposals_of_two_costs_bound_both() -> None:
    problem = _problem(CHAIN, 5, extra=True)
    for proposal in propose(problem, ["latency", "size"], count=6):
        assert set(proposal.budgets) == {"latency", "size"}
        if proposal.allocation.feasible:
            assert all(proposal.allocation.costs[name] <= bound for name, bound in proposal.budgets.items())


def test_the_lowest_budgets_are_the_lowest_useful_ones() -> None:
    problem = _problem(CHAIN, 6, choices=16)
    worst = problem.divergence((15, 15, 15, 15))
    found = propose(problem, ["latency"], most_divergence=1e-3 * worst)
    assert len(found) >= 8
    assert max(proposal.allocation.divergence for proposal in found) <= 1e-3 * worst
    assert max(proposal.allocation.divergence for proposal in propose(problem, ["latency"])) > 1e-2 * worst


def test_probes_span_all_widths() -> None:
    problem = _problem(CHAIN, 7, choices=16)
    points = probe_points(problem, "latency", 6)
    costs = [problem.cost("latency", point) for point in points]
    assert points[0] == (0, 0, 0, 0)
    assert points[1] == (15, 15, 15, 15)
    assert costs[1] < min(costs[2:])
    assert costs[0] > max(costs[2:])
    assert len(set(points)) == 6

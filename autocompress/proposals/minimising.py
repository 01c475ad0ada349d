"""Minimises a sum of small tables over the choices of all parts: exactly, or part by part.

The exact way eliminates one part after another: the minimum over a part is computed for all
choices of the parts that share a table with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.proposals.problem import Problem

LARGEST_TABLE = 2**18
MOST_SWEEPS = 20


def elimination_order(problem: Problem, names: Sequence[str]) -> list[int] | None:
    """A greedy order of the parts, the smallest table first; None if a table exceeds the limit."""
    sizes = [len(part.choices) for part in problem.parts]
    scopes = [set(scope) for name in names for scope, _ in problem.scopes[name]]
    neighbours = {place: set().union(*[s for s in scopes if place in s], {place}) for place in range(len(sizes))}
    order: list[int] = []
    while neighbours:
        table = {place: float(np.prod([sizes[other] for other in around])) for place, around in neighbours.items()}
        place = min(table, key=lambda place: (table[place], place))
        if table[place] > LARGEST_TABLE:
            return None
        around = neighbours.pop(place) - {place}
        for other in around:
            neighbours[other] = (neighbours[other] | around) - {place}
        order.append(place)
    return order


class Elimination:
    """Min-sum elimination of parts in a fixed order.

    All that does not depend on the values of tables is prepared once.

    Args:
        scopes: for each table, the positions of the parts on which it depends.
        sizes: number of choices of each part.
        order: order of the elimination, as positions of parts.
    """

    def __init__(self, scopes: Sequence[tuple[int, ...]], sizes: Sequence[int], order: Sequence[int]) -> None:
        count = len(sizes)
        left = [((place,), place) for place in range(count)] + [(own, count + at) for at, own in enumerate(scopes)]
        self._count = count
        self._steps: list[tuple[int, list[tuple[int, tuple[int, ...]]], int, tuple[int, ...]]] = []
        for step, place in enumerate(order):
            mine = [factor for factor in left if place in factor[0]]
            left = [factor for factor in left if place not in factor[0]]
            scope = tuple(sorted(set().union(*[set(own) for own, _ in mine])))
            rest = tuple(other for other in scope if other != place)
            # each table gets a dimension for every part in the scope of the step
            shaped = [(slot, tuple(sizes[axis] if axis in own else 1 for axis in scope)) for own, slot in mine]
            self._steps.append((place, shaped, scope.index(place), rest))
            left.append((rest, count + len(scopes) + step))

    def minimum(self, losses: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> list[int]:
        """The choices with the exact minimum of a sum of tables."""
        slots = [*losses, *tables]
        best: list[np.ndarray] = []
        for _, ((slot, shape), *others), axis, _ in self._steps:
            total = slots[slot].reshape(shape)
            for other, own_shape in others:
                total = total + slots[other].reshape(own_shape)
            best.append(total.argmin(axis))
            slots.append(total.min(axis))
        chosen = [0] * self._count
        for (place, _, _, rest), at in zip(reversed(self._steps), reversed(best), strict=True):
            chosen[place] = int(at[tuple(chosen[other] for other in rest)])
        return chosen


def descended(
    losses: Sequence[np.ndarray], factors: Sequence[tuple[tuple[int, ...], np.ndarray]], start: Sequence[int]
) -> list[int]:
    """A local minimum near ``start``: each part takes its best choice until none changes."""
    touching: list[list[tuple[tuple[int, ...], np.ndarray]]] = [[] for _ in losses]
    for factor in factors:
        for place in factor[0]:
            touching[place].append(factor)
    at = [place if np.isfinite(loss[place]) else 0 for place, loss in zip(start, losses, strict=True)]
    for _ in range(MOST_SWEEPS):
        before = list(at)
        for place, loss in enumerate(losses):
            total = loss.copy()
            for scope, table in touching[place]:
                total += table[tuple(slice(None) if axis == place else at[axis] for axis in scope)]
            at[place] = int(total.argmin())
        if at == before:
            break
    return at

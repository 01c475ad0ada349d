"""Finds the choices with the smallest divergence within a budget.

The divergence of a network is the sum of the divergences of its parts. A cost is a sum of factors,
each of which depends on the choices of neighbouring parts.

Let x_i be the choice of part i, D_i its divergence, and C_kf a factor of cost k, which depends on
the choices x_f of some parts. Each cost has a price ``lambda_k``. For given prices, the choices
minimise

    sum_i D_i(x_i) + sum_k lambda_k sum_f C_kf(x_f)                       (1)

In a chain of blocks, the exact minimum is found by eliminating one part after another. To eliminate
a part, the minimum over its choices is computed for all choices of the parts that share a layer
with it. Parts that share layers with few others are eliminated first. If the tables become too
large (concatenations), the parts are optimised one by one instead, which may miss the minimum.

The prices are found by bisection. Then single moves and swaps use the rest of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.proposals.minimising import Elimination, descended, elimination_order
from autocompress.proposals.problem import Problem

BISECTIONS = 24
LOWEST_PRICE, HIGHEST_PRICE = -30.0, 30.0
"""Range of log(price). At a price of p, the full cost weighs as much as a divergence of p."""
HELD_BISECTIONS = 6
WINDOW = 1.5
"""Selections near the bound are sought within this distance from the logarithm of the price."""
BALANCINGS = 4
"""Number of rounds in which the prices of several bounds are balanced."""
MOST_HELD = 32
"""Maximum number of parts of a problem in which single parts are held at other choices.

With more parts, prices alone come close to the bound.
"""
MOST_MOVES = 20_000
"""Moves and swaps of one selection stop after about this number of second parts was tried."""
SWEEPS = 20
IMPROVED = 2
"""Number of selections that are improved by moves and swaps."""


@dataclass(frozen=True)
class Allocation:
    """The choices of all parts, and whether they are within the budget.

    Attributes:
        indices: index of the choice of each part, in the order of the problem.
        divergence: sum of the divergences of the parts, without tilts.
        costs: each cost of these choices, by name.
        feasible: whether all bounds are met.
    """

    indices: tuple[int, ...]
    divergence: float
    costs: Mapping[str, float]
    feasible: bool


def allocate(
    problem: Problem,
    bounds: Mapping[str, float],
    *,
    tilts: Mapping[str, float] | None = None,
    rough: bool = False,
) -> Allocation:
    """Returns the choices with (almost) the smallest divergence within the bounds.

    Args:
        problem: parts, divergences and costs.
        bounds: upper bound of each cost, in its unit; a missing cost is not bounded.
        tilts: factor on the divergence of each part, by part key. A part with a factor below 1 is
            reduced more, a part with a factor above 1 less. A sampler draws tilts to get other
            allocations near the best one.
        rough: whether to use only prices. Without moves and swaps, it is several times as fast.

    Returns:
        The allocation. If no combination meets all bounds, it is the nearest one, and its
        ``feasible`` is False.
    """
    losses = [loss * (tilts or {}).get(part.key, 1.0) for part, loss in zip(problem.parts, problem.losses, strict=True)]
    for loss in losses:
        loss[0] = 0.0
    search = _Search(problem, losses, dict(bounds))
    best = search.priced() if rough else search.run()
    costs = {name: problem.cost(name, best) for name in problem.costs}
    return Allocation(tuple(best), problem.divergence(best), costs, search.excess(best) <= 0)


class _Search:
    def __init__(self, problem: Problem, losses: list[np.ndarray], bounds: dict[str, float]) -> None:
        self.problem, self.losses, self.bounds = problem, losses, bounds
        neutral = problem.neutral()
        self.full = {name: max(problem.cost(name, neutral), 1e-30) for name in problem.costs}
        self.scopes = [scope for name in bounds for scope, _ in problem.scopes[name]]
        order = elimination_order(problem, list(bounds))
        self.elimination = (
            None if order is None else Elimination(self.scopes, [len(part.choices) for part in problem.parts], order)
        )
        self.last = list(problem.neutral())
        self.moves = 0

    def excess(self, indices: Sequence[int]) -> float:
        """Returns the largest excess over a bound, as a share of the full cost.

        It is at most 0 if all bounds are met.
        """
        over = [(self.problem.cost(name, indices) - bound) / self.full[name] for name, bound in self.bounds.items()]
        return max(over, default=0.0) - 1e-12

    def loss(self, indices: Sequence[int]) -> float:
        return float(sum(loss[index] for loss, index in zip(self.losses, indices, strict=True)))

    def run(self) -> list[int]:
        """Finds prices by bisection, then improves the best selections by moves and swaps."""
        found = list(self.problem.neutral())
        if self.excess(found) <= 0:
            return found
        starts = {tuple(start): start for start in self._near()}
        inside = [self._made_feasible(list(start)) for start in starts.values()]
        best = sorted(inside, key=self._rank)[:IMPROVED]
        return min((self._improved(start) for start in best), key=self._rank)

    def priced(self) -> list[int]:
        """Returns the selection at the lowest price that meets the bounds, or the cheapest one."""
        shares, price = self._prices()
        found = self._minimum(self.losses, price, shares)
        return found if self.excess(found) <= 0 else self.cheapest()

    def _rank(self, indices: Sequence[int]) -> tuple[float, float]:
        return max(self.excess(indices), 0.0), self.loss(indices)

    def _near(self) -> list[list[int]]:
        """Returns selections on both sides of the bounds.

        At most two of them minimise equation (1) at some price. For the others, one part is held at
        a neighbouring choice, because some good combinations are not the minimum at any price.
        """
        shares, price = self._prices()
        found = self._bisected(self.losses, shares, (price - WINDOW, price + WINDOW), BISECTIONS)
        if self.elimination is None or len(self.losses) > MOST_HELD:
            return found
        for place, loss in enumerate(self.losses):
            around = {start[place] + step for start in list(found[:2]) for step in (-1, 1)}
            for choice in around & {*np.flatnonzero(np.isfinite(loss)).tolist()}:
                held = list(self.losses)
                held[place] = np.where(np.arange(len(loss)) == choice, loss, np.inf)
                found += self._bisected(held, shares, (price - WINDOW, price + WINDOW), HELD_BISECTIONS)
        return found

    def _prices(self) -> tuple[dict[str, float], float]:
        """Returns the ratios of the prices of all bounds, and the logarithm of their common factor.

        The factor is the lowest one at which all bounds are met.
        """
        shares = {name: 1.0 / self.full[name] for name in self.bounds}
        price = HIGHEST_PRICE
        for _ in range(1 if len(shares) == 1 else BALANCINGS):
            low, price = LOWEST_PRICE, HIGHEST_PRICE
            inside: list[int] | None = None
            for _ in range(BISECTIONS):
                middle = (low + price) / 2
                tried = self._minimum(self.losses, middle, shares)
                if self.excess(tried) <= 0:
                    inside, price = tried, middle
                else:
                    low = middle
            if inside is None or len(shares) == 1:
                break
            # a bound that is not fully used gets a lower price in the next round
            used = {name: self.problem.cost(name, inside) / self.bounds[name] for name in shares}
            shares = {name: share * used[name] ** 4 for name, share in shares.items()}
        return shares, price

    def _bisected(
        self, losses: Sequence[np.ndarray], shares: Mapping[str, float], window: tuple[float, float], steps: int
    ) -> list[list[int]]:
        """Returns two selections: at the lowest price that meets all bounds, and just below it."""
        (low, high), inside, outside = window, None, None
        for _ in range(steps):
            middle = (low + high) / 2
            tried = self._minimum(losses, middle, shares)
            if self.excess(tried) <= 0:
                inside, high = tried, middle
            else:
                outside, low = tried, middle
        return [found for found in (inside, outside) if found is not None]

    def _minimum(self, losses: Sequence[np.ndarray], price: float, shares: Mapping[str, float]) -> list[int]:
        """Returns the minimum of equation (1); it is exact if the tables are small."""
        price = np.exp(price)
        tables = [table * (price * shares[name]) for name in self.bounds for _, table in self.problem.scopes[name]]
        return self._least(losses, tables)

    def _least(self, losses: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> list[int]:
        if self.elimination is not None:
            return self.elimination.minimum(losses, tables)
        factors = list(zip(self.scopes, tables, strict=True))
        self.last = descended(losses, factors, self.last)  # prices change little between calls
        return self.last

    def cheapest(self) -> list[int]:
        """Returns the selection with the lowest sum of bounded costs, relative to full costs."""
        free = [np.where(np.isfinite(loss), 0.0, np.inf) for loss in self.losses]
        tables = [table / self.full[name] for name in self.bounds for _, table in self.problem.scopes[name]]
        return self._least(free, tables)

    def _made_feasible(self, indices: list[int]) -> list[int]:
        """Changes ``indices`` until all bounds are met, or no move helps.

        Each step saves the cost that most exceeds its bound, with the smallest loss per saved cost.
        """
        for _ in range(64 * len(indices)):
            if self.excess(indices) <= 0:
                break
            worst = max(
                self.bounds, key=lambda name: (self.problem.cost(name, indices) - self.bounds[name]) / self.full[name]
            )
            best, move = np.inf, None
            for place, loss in enumerate(self.losses):
                cost = self.problem.moved(worst, indices, place)
                saved = (cost[indices[place]] - cost) / self.full[worst]
                more = np.maximum(loss - loss[indices[place]], 0.0)
                rate = np.where((saved > 1e-12) & np.isfinite(loss), (more + 1e-12) / np.maximum(saved, 1e-12), np.inf)
                at = int(rate.argmin())
                if rate[at] < best:
                    best, move = float(rate[at]), (place, at)
            if move is None:
                break
            indices[move[0]] = move[1]
        return indices

    def _improved(self, indices: list[int]) -> list[int]:
        """Makes single moves and swaps of two parts that lower the loss within the bounds."""
        if self.excess(indices) > 0:
            return indices
        self.moves = 0
        for _ in range(SWEEPS):
            before = self.loss(indices)
            self._swap_all(indices)
            if self.loss(indices) >= before * (1 - 1e-9):
                break
        return indices

    def _swap_all(self, indices: list[int]) -> None:
        """Tries each better choice of each part.

        If the choice exceeds a bound, another part must take a cheaper choice. Of these moves, the
        one with the smallest loss is made.
        """
        moves = _Moves(self.problem, self.losses, list(self.bounds), indices)
        costs = {name: self.problem.cost(name, indices) for name in self.bounds}
        for first, loss in enumerate(self.losses):
            for choice in np.flatnonzero(loss < loss[indices[first]]):
                gain = loss[indices[first]] - loss[choice]
                if self.moves > MOST_MOVES or not gain > 0:
                    continue
                kept = indices[first]
                more = {name: moves.change(name, first, int(choice)) for name in self.bounds}
                moves.take(first, int(choice))
                room = {name: bound - costs[name] - more[name] for name, bound in self.bounds.items()}
                second = None
                if min(room.values()) < 0:
                    self.moves += len(indices)
                    second = moves.payer(first, room, gain * (1 - 1e-9))
                    if second is None:
                        moves.take(first, kept)
                        continue
                    for name in self.bounds:
                        more[name] += moves.change(name, *second)
                    moves.take(*second)
                costs = {name: costs[name] + more[name] for name in self.bounds}


class _Moves:
    """The changes of costs by all single moves from a selection.

    A move gives one part another choice. When a move is made, the changes are updated.

    Args:
        problem: problem with the costs.
        losses: divergences of the choices of each part.
        names: names of the costs to use.
        indices: the selection; it is changed in place.
    """

    def __init__(
        self, problem: Problem, losses: Sequence[np.ndarray], names: Sequence[str], indices: list[int]
    ) -> None:
        self._problem, self._indices = problem, indices
        widest = max(len(loss) for loss in losses)
        self._losses = np.full((len(losses), widest), np.inf)
        for place, loss in enumerate(losses):
            self._losses[place, : len(loss)] = loss
        self._costs = {name: np.full(self._losses.shape, np.inf) for name in names}
        for place in range(len(losses)):
            self._look(place)
        self._near = [
            sorted(
                {place}.union(*[problem.scopes[name][at][0] for name in names for at in problem.touching[name][place]])
            )
            for place in range(len(losses))
        ]

    def _look(self, place: int) -> None:
        """Updates the costs of all choices of one part, for the present choices of the others."""
        for name, costs in self._costs.items():
            own = self._problem.moved(name, self._indices, place)
            costs[place, : len(own)] = own

    def change(self, name: str, place: int, choice: int) -> float:
        """Returns the change of a cost by a move."""
        return float(self._costs[name][place, choice] - self._costs[name][place, self._indices[place]])

    def take(self, place: int, choice: int) -> None:
        """Makes a move: part ``place`` takes ``choice``."""
        self._indices[place] = choice
        for near in self._near[place]:
            self._look(near)

    def payer(self, first: int, room: Mapping[str, float], most: float) -> tuple[int, int] | None:
        """Returns the move with the smallest loss that changes each cost by at most ``room``.

        It is a move of a part other than ``first``. None if every such move loses ``most`` or more.
        """
        rows = np.arange(len(self._indices))
        paid = self._losses - self._losses[rows, self._indices][:, None]
        for name, costs in self._costs.items():
            paid[costs - costs[rows, self._indices][:, None] > room[name]] = np.inf
        paid[first] = np.inf
        place, choice = np.unravel_index(int(paid.argmin()), paid.shape)
        return (int(place), int(choice)) if paid[place, choice] < most else None


def cheapest(problem: Problem, name: str) -> Allocation:
    """Returns the choices with the smallest value of one cost, whatever their divergence."""
    best = _Search(problem, problem.losses, {name: 0.0}).cheapest()
    costs = {every: problem.cost(every, best) for every in problem.costs}
    return Allocation(tuple(best), problem.divergence(best), costs, feasible=True)

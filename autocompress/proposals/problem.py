"""The problem of allocation: the parts of a network, with the loss and the costs of each choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autocompress.proposals.choices import Part
from autocompress.proposals.factors import Factor


@dataclass(frozen=True)
class Problem:
    """Parts, the divergences of their choices, and the costs of combinations of choices.

    Attributes:
        parts: the parts of the network.
        divergences: divergences of the choices of each part, by part key: float64 ``[choices]``.
            They are infinite or NaN for choices that are excluded. The neutral choice never is.
        costs: the factors of each cost, by name; the cost is the sum of their entries.
        fixed: a constant that is added to each cost, by name.
    """

    parts: tuple[Part, ...]
    divergences: Mapping[str, np.ndarray]
    costs: Mapping[str, Sequence[Factor]]
    fixed: Mapping[str, float]

    @cached_property
    def place(self) -> dict[str, int]:
        """Position of each part by key."""
        return {part.key: place for place, part in enumerate(self.parts)}

    @cached_property
    def losses(self) -> list[np.ndarray]:
        """Divergences in the order of the parts, infinite for excluded choices."""
        found = []
        for part in self.parts:
            loss = np.array(self.divergences[part.key], dtype=float)
            loss[~np.isfinite(loss)] = np.inf
            loss[0] = 0.0
            found.append(loss)
        return found

    @cached_property
    def scopes(self) -> dict[str, list[tuple[tuple[int, ...], np.ndarray]]]:
        """Factors of each cost over positions of parts; factors over the same parts are summed."""
        found: dict[str, list[tuple[tuple[int, ...], np.ndarray]]] = {}
        for name, factors in self.costs.items():
            merged: dict[tuple[int, ...], np.ndarray] = {}
            for factor in factors:
                axes = [self.place[key] for key in factor.parts]
                order = np.argsort(axes)
                scope = tuple(axes[axis] for axis in order)
                table = factor.table.transpose(order)
                merged[scope] = merged[scope] + table if scope in merged else table
            found[name] = list(merged.items())
        return found

    @cached_property
    def touching(self) -> dict[str, list[list[int]]]:
        """The positions of the factors of each cost that depend on each part."""
        return {
            name: [[at for at, (scope, _) in enumerate(own) if place in scope] for place in range(len(self.parts))]
            for name, own in self.scopes.items()
        }

    def cost(self, name: str, indices: Sequence[int]) -> float:
        """One cost of a selection."""
        total = sum(float(table[tuple(indices[axis] for axis in scope)]) for scope, table in self.scopes[name])
        return total + self.fixed.get(name, 0.0)

    def divergence(self, indices: Sequence[int]) -> float:
        """Sum of the divergences of a selection."""
        return float(sum(loss[index] for loss, index in zip(self.losses, indices, strict=True)))

    def neutral(self) -> tuple[int, ...]:
        """The selection of neutral choices."""
        return (0,) * len(self.parts)

    def moved(self, name: str, indices: Sequence[int], place: int) -> np.ndarray:
        """The terms of a cost that depend on one part, for each of its choices."""
        total = np.zeros(len(self.parts[place].choices))
        for at in self.touching[name][place]:
            scope, table = self.scopes[name][at]
            total = total + table[tuple(slice(None) if axis == place else indices[axis] for axis in scope)]
        return total

"""The tables of a job: losses of couplings at each width, and costs of widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autocompress import proposals
from autocompress.contract import Value
from autocompress.proposals import Correction, Problem, Table
from autocompress.proposals.shares import KEEP

MOST_DIVERGENCE = 0.25
"""Largest KL divergence from the baseline of a proposal, in nats."""


@dataclass(frozen=True)
class Tables:
    """The tables of a job.

    Attributes:
        problem: parts, divergences of their choices, and costs.
        table: divergences, for the report.
        neutral: the values of a recipe that keeps all channels; proposals change these.
        groups: group of each coupling.
        errors: relative error of predictions of each cost; NaN if it is not known.
        wholes: each cost of the baseline in the unit of the problem. A missing cost cannot be
            bounded yet.
        amounts: each cost of the baseline in the unit of the bounds of a job.
        first: name of the cost that budgets of the sampler limit; proposals are spread over it too.
        correction: correction of predicted divergences by trials.
    """

    problem: Problem
    table: Table
    neutral: Mapping[str, Value]
    groups: Mapping[str, str]
    errors: Mapping[str, float]
    wholes: Mapping[str, float]
    amounts: Mapping[str, float]
    first: str = "latency"
    correction: Correction = field(default_factory=Correction)

    def widths(self, budget: float, tilts: Mapping[str, float]) -> dict[str, float]:
        """The shares of channels to keep for a draw of a sampler, by name of the parameter.

        Args:
            budget: the cost ``first``, as a share of its value for the full network.
            tilts: factor on the losses of the couplings of each group, by group.

        Returns:
            Shares of all couplings with a measured table; the sampler draws the others.
        """
        name = self.first
        bound = budget * self.problem.cost(name, self.problem.neutral())
        own = {part.key: tilts.get(self.groups[part.name], 1.0) for part in self.problem.parts}
        found = proposals.allocate(self.problem, {name: bound}, tilts=own)
        lacking = {part.name for part in self.problem.parts if part.key in self.table.unmeasured}
        found_shares = self.shares(found.indices)
        return {name: share for name, share in found_shares.items() if name.removeprefix(KEEP) not in lacking}

    def indices(self, shares: Mapping[str, Value]) -> tuple[int, ...] | None:
        """The choices for ``prune.keep`` of a recipe; None if a share is not a choice."""
        found = []
        for part in self.problem.parts:
            share = shares.get(KEEP + part.name, 1.0)
            if share not in part.choices:
                return None
            found.append(part.choices.index(share))
        return tuple(found)

    def shares(self, indices: Sequence[int]) -> dict[str, float]:
        """``prune.keep`` of each coupling for these choices."""
        return {KEEP + part.name: float(part.choices[at]) for part, at in zip(self.problem.parts, indices, strict=True)}

    def rows(self) -> list[dict[str, Any]]:
        """The table as rows."""
        return [{**row, "group": self.groups[row["name"]]} for row in self.table.rows(self.problem.parts)]

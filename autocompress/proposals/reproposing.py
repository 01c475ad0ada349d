"""Makes new proposals from tables that are corrected with finished trials."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autocompress.contract import Value
from autocompress.objectives.figures import known, ratio
from autocompress.proposals import Correction, with_measured
from autocompress.proposals.jobtables import Tables
from autocompress.proposals.lossless import is_beaten, lossless
from autocompress.proposals.proposer import Proposed, Proposer
from autocompress.proposals.shares import KEEP
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace

MOST_ROWS = 200
"""Number of latest rows that correct costs."""
MOST_FIRST = 8
"""Maximum number of recipes of the first round: the sampler knows little yet."""
MOST_RECIPES = 4
"""Maximum number of recipes of each later round."""
Row = Mapping[str, Any]


@dataclass
class Reproposer:
    """Corrects the tables of a job with rows of trials, and proposes new recipes.

    Attributes:
        proposer: proposer of the job.
        tables: the tables from before the trials.
    """

    proposer: Proposer
    tables: Tables
    _round: int = 0

    def again(self, rows: Sequence[Row], baseline: Row) -> Proposed | None:
        """New recipes, those at constraints first; None if no row can be used.

        Budgets over the range do not exceed the costs of trials without a loss of accuracy, because
        more expensive recipes cannot be better.
        """
        seen = list(self._seen(rows[-MOST_ROWS:]))
        if not seen:
            return None
        self._round += 1
        tables = self.corrected(seen, baseline)
        names = self.proposer.costs(tables)
        best = lossless(rows, names, baseline)
        most = {name: tables.wholes[name] * max(own[name] for own in best) for name in names} if best else None
        tried = {
            tuple(sorted(_shares(row["recipe"]).items())) for row in rows if self._differs_in_widths(row["recipe"])
        }
        recipes = [
            (f"{label}, corrected", values)
            for label, values in self.proposer.recipes(tables, step=self._round, most=most)
            if tuple(sorted(_shares(values).items())) not in tried
            and not is_beaten(self._predicted(tables, values), best, margin=0.0)
        ]
        most_recipes = MOST_FIRST if self._round == 1 else MOST_RECIPES
        return self.proposer.proposed(tables, recipes[:most_recipes])

    def ratios(self, values: Mapping[str, Value]) -> Mapping[str, float] | None:
        """Predicted costs of the objectives for a recipe, as ratios to the baseline.

        None if the recipe differs from the neutral one in more than widths.
        """
        return self._predicted(self.tables, values) or None if self._differs_in_widths(values) else None

    @cached_property
    def _neutral(self) -> dict[str, Value] | None:
        return _structure(self.proposer.maker.recipes.space, self.tables.neutral)

    def _differs_in_widths(self, values: Mapping[str, Value]) -> bool:
        """Whether only widths differ from the neutral recipe, among values that decide costs."""
        return self._neutral is not None and _structure(self.proposer.maker.recipes.space, values) == self._neutral

    def _predicted(self, tables: Tables, values: Mapping[str, Value]) -> Mapping[str, float]:
        indices = tables.indices(_shares(values))
        if indices is None:
            return {}
        names = [name for name in self.proposer.costs(tables) if name in tables.wholes]
        return {name: tables.problem.cost(name, indices) / tables.wholes[name] for name in names}

    def corrected(self, seen: Sequence[tuple[tuple[int, ...], Row]], baseline: Row) -> Tables:
        """The tables with costs corrected by rows, and their errors."""
        problem, wholes, errors = self.tables.problem, dict(self.tables.wholes), dict(self.tables.errors)
        amounts = {**self.tables.amounts, **_amounts([row for _, row in seen], baseline)}
        for name in problem.costs:
            pairs = [(own, value) for own, row in seen if (value := ratio(name, row, baseline)) is not None]
            if not pairs:
                continue
            problem, errors[name] = with_measured(problem, name, [own for own, _ in pairs], [v for _, v in pairs])
            wholes[name] = 1.0
        predicted = [self.tables.problem.divergence(own) for own, _ in seen]
        losses = [known(row, "divergence") or 0.0 for _, row in seen]
        correction = Correction.fit(predicted, losses)
        return replace(
            self.tables, problem=problem, wholes=wholes, amounts=amounts, errors=errors, correction=correction
        )

    def _seen(self, rows: Sequence[Row]) -> Iterator[tuple[tuple[int, ...], Row]]:
        """Choices and row of each trial that differs from the neutral recipe only in widths.

        Parameters that do not change costs may differ too.
        """
        for row in rows:
            own = _shares(row["recipe"])
            indices = self.tables.indices(own)
            if known(row, "latency_ratio") is None or indices is None:
                continue
            if self._differs_in_widths(row["recipe"]):
                yield indices, row


def _amounts(rows: Sequence[Row], baseline: Row) -> dict[str, float]:
    """Costs of the baseline that are only known from trials."""
    beside = [value for row in rows if (value := known(row.get("latency") or {}, "baseline_ms")) is not None]
    found = {"latency": statistics.median(beside)} if beside else {}
    energy = known(baseline, "energy_uj")
    return found if energy is None else {**found, "energy": energy}


def _shares(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name.startswith(KEEP)}


def _structure(space: JobSpace, values: Mapping[str, Value]) -> dict[str, Value] | None:
    """The values that decide costs, without widths, pruner and repair; None if invalid."""
    try:
        structural = space.compose(Replay(values)).structural
    except Exception:  # an error of a plugin must not end the search
        return None
    return {name: value for name, value in structural.items() if not name.startswith((KEEP, "prune.method", "repair."))}

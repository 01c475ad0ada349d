"""Proposals again, from tables that finished trials have corrected."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
"""The last rows, that costs are corrected by."""
MOST_RECIPES = 4
"""Proposed at a time."""
Row = Mapping[str, Any]


@dataclass
class Reproposer:
    """Corrects the tables of a job by rows, and proposes what was not tried yet.

    Attributes:
        proposer: of the job.
        tables: as measured before the trials.
    """

    proposer: Proposer
    tables: Tables
    _round: int = 0

    def again(self, rows: Sequence[Row], baseline: Row) -> Proposed | None:
        """New recipes, those at constraints first; None where no row tells anything.

        Budgets lie below the costs of trials that lose nothing: dearer recipes cannot be better.
        """
        seen = list(self._seen(rows[-MOST_ROWS:]))
        if not seen:
            return None
        self._round += 1
        tables = self.corrected(seen, baseline)
        names = self.proposer.costs(tables)
        best = lossless(rows, names, baseline)
        most = {name: tables.wholes[name] * max(own[name] for own in best) for name in names} if best else None
        tried = {tuple(sorted(_shares(row["recipe"]).items())) for row in rows}
        recipes = [
            (f"{label}, corrected", values)
            for label, values in self.proposer.recipes(tables, step=self._round, most=most)
            if tuple(sorted(_shares(values).items())) not in tried
            and not is_beaten(self._predicted(tables, values), best, margin=0.0)
        ]
        return self.proposer.proposed(tables, recipes[:MOST_RECIPES])

    def ratios(self, values: Mapping[str, Value]) -> Mapping[str, float] | None:
        """The objectives' costs that the tables predict of a recipe, as ratios to the baseline's;
        None where it differs from the neutral one in more than widths.
        """
        space = self.proposer.maker.recipes.space
        neutral, own = _structure(space, self.tables.neutral), _structure(space, values)
        return self._predicted(self.tables, values) or None if own == neutral is not None else None

    def _predicted(self, tables: Tables, values: Mapping[str, Value]) -> Mapping[str, float]:
        indices = tables.indices(_shares(values))
        if indices is None:
            return {}
        names = [name for name in self.proposer.costs(tables) if name in tables.wholes]
        return {name: tables.problem.cost(name, indices) / tables.wholes[name] for name in names}

    def corrected(self, seen: Sequence[tuple[tuple[int, ...], Row]], baseline: Row) -> Tables:
        """The tables with each cost as rows have it, and the error of each."""
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
        """Choices and row of each that differs from the neutral recipe in nothing that costs but
        its widths."""
        space = self.proposer.maker.recipes.space
        neutral = _structure(space, self.tables.neutral)
        for row in rows:
            own = _shares(row["recipe"])
            indices = self.tables.indices(own)
            if known(row, "latency_ratio") is None or indices is None:
                continue
            if neutral is not None and _structure(space, row["recipe"]) == neutral:
                yield indices, row


def _amounts(rows: Sequence[Row], baseline: Row) -> dict[str, float]:
    """What the baseline has of costs that only trials tell."""
    beside = [value for row in rows if (value := known(row.get("latency") or {}, "baseline_ms")) is not None]
    found = {"latency": statistics.median(beside)} if beside else {}
    energy = known(baseline, "energy_uj")
    return found if energy is None else {**found, "energy": energy}


def _shares(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name.startswith(KEEP)}


def _structure(space: JobSpace, values: Mapping[str, Value]) -> dict[str, Value] | None:
    """What decides costs, but for widths and how they were chosen; None where it cannot be
    composed."""
    try:
        structural = space.compose(Replay(values)).structural
    except Exception:  # a plugin's fault must not end the search
        return None
    return {name: value for name, value in structural.items() if not name.startswith((KEEP, "prune.method", "repair."))}

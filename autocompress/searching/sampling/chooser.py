"""The chooser of a search: values drawn by Optuna."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial

from autocompress.compat.optuna import enqueued_values
from autocompress.contract.space import Parameter, Value
from autocompress.proposals.proposer import Proposed

SMALLEST_BUDGET = 1 / 32
"""Smallest drawn budget, as a share of the full latency."""
MOST_TILT = 2.0
"""Maximum factor on the losses of a group; the minimum is its inverse."""


class OptunaChooser:
    """Draws each value from an Optuna trial (define by run).

    Args:
        trial: an asked trial.
        known: categorical distributions of the study by Optuna's name; new ones are added. Optuna
            refuses other choices under a known name. A conditional parameter may have other
            choices, so each variant gets a name of its own.
        proposed: computes widths from a budget and tilts, which are drawn in place of widths.
        undrawn: names of numeric parameters that are not drawn. They get their lowest value, unless
            a value was enqueued.
    """

    def __init__(
        self,
        trial: Trial,
        known: dict[str, BaseDistribution] | None = None,
        proposed: Proposed | None = None,
        undrawn: Collection[str] = (),
    ) -> None:
        self._trial = trial
        self._known = {} if known is None else known
        self._proposed, self._undrawn = proposed, undrawn
        self._shares: dict[str, float] | None = None
        self._fixed: Mapping[str, Value] = enqueued_values(trial)

    def choose(self, parameter: Parameter) -> Value:
        """A value from the sampler, or the enqueued one.

        Tied parameters get one draw, but each may have a value of its own in an enqueued recipe.
        """
        if parameter.name in self._undrawn and parameter.name not in self._fixed and parameter.low is not None:
            return parameter.low
        if parameter.tie:
            fixed = self._fixed.get(parameter.name)
            if fixed is not None and parameter.contains(fixed):
                return fixed
            allocated = self._allocated().get(parameter.name)
            if allocated is not None and parameter.contains(allocated):
                return allocated
            parameter = replace(parameter, name=parameter.tie)
        if parameter.choices:
            name = self._name(parameter)
            value = self._trial.suggest_categorical(name, parameter.choices)
            assert value is not None, "a parameter never offers null"
            return value
        assert parameter.low is not None
        assert parameter.high is not None
        if parameter.is_integer:
            # Optuna takes a step only on a linear scale.
            step = 1 if parameter.log or parameter.step is None else int(parameter.step)
            low, high = int(parameter.low), int(parameter.high)
            return self._trial.suggest_int(parameter.name, low, high, step=step, log=parameter.log)
        width = None if parameter.log or parameter.step is None else float(parameter.step)
        low_, high_ = float(parameter.low), float(parameter.high)
        return self._trial.suggest_float(parameter.name, low_, high_, step=width, log=parameter.log)

    def _allocated(self) -> dict[str, float]:
        """Widths from the allocation for a budget and tilts by group; empty without tables."""
        if self._shares is None:
            self._shares = {}
            if self._proposed is not None:
                budget = self._trial.suggest_float("prune.budget", SMALLEST_BUDGET, 1.0, log=True)
                tilts = {
                    group: self._trial.suggest_float(f"prune.tilt.{group}", 1 / MOST_TILT, MOST_TILT, log=True)
                    for group in self._proposed.groups
                }
                self._shares = self._proposed.widths(budget, tilts)
        return self._shares

    def _name(self, parameter: Parameter) -> str:
        name = parameter.name
        wanted = CategoricalDistribution(parameter.choices)
        if self._known.setdefault(name, wanted) != wanted:
            name = f"{name} ({' | '.join(str(choice) for choice in parameter.choices)})"
            self._known.setdefault(name, wanted)
        return name

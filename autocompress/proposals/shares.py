"""Recipes that differ only in the shares of channels kept in couplings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from autocompress import proposals
from autocompress.contract import Coupling, Parameter, Quantizer, Value
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.proposals import Part
from autocompress.recipes.choosers import Fixed, Policy
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe

KEEP, MODE = "prune.keep.", "prune.mode"


@dataclass
class ShareRecipes:
    """The recipes with pruning in the space of a job, with defaults for all other parameters.

    Attributes:
        space: space of the job's recipes.
    """

    space: JobSpace

    @cached_property
    def default(self) -> Recipe | None:
        """The default recipe with pruning and without training; None if PRUNE cannot act."""
        recipe = self._compose({}, Policy({**self._rules, "prune": "default"}))
        return recipe if recipe is not None and recipe.prune is not None else None

    @cached_property
    def neutral(self) -> Recipe | None:
        """The recipe that proposals change: the default with all channels kept."""
        return self._compose({}, _Widest(Policy({**self._rules, "prune": "default"})))

    @property
    def _rules(self) -> dict[str, str]:
        quantizers = [method.name for method in self.space.methods if isinstance(method, Quantizer)]
        return dict.fromkeys(["bits", *quantizers], "default")

    def _compose(self, values: Mapping[str, Value], otherwise: Chooser) -> Recipe | None:
        fixed: dict[str, Value] = {MODE: "group", "recover.epochs": 0, "qat.epochs": 0, **values}
        with suppress(InvalidRecipe):
            return self.space.compose(Fixed(fixed, otherwise))
        return None

    def recipe(self, values: Mapping[str, Value]) -> Recipe | None:
        """The neutral recipe with other ``values``; None if it is invalid."""
        assert self.neutral is not None
        return self._compose({**self.neutral.values, **values}, Policy({}, "default"))

    def in_float(self, values: Mapping[str, Value]) -> Recipe | None:
        """The :meth:`recipe` without quantization; None if the space has no such recipe."""
        assert self.neutral is not None
        others = {name: value for name, value in self.neutral.values.items() if name.split(".")[0] not in self._rules}
        recipe = self._compose({**others, **values}, Policy({"prune": "default"}))
        return recipe if recipe is not None and not recipe.bits else None

    def parts(self, couplings: Sequence[Coupling], multiple: int) -> list[Part]:
        """A part for each coupling with several allowed shares, which include 1."""
        known = self.space.parameters()
        found = []
        for coupling in couplings:
            parameter = known.get(KEEP + coupling.name)
            shares = [share for share in proposals.SIXTEENTHS if parameter is not None and parameter.contains(share)]
            if shares and shares[0] == 1.0:
                part = proposals.structure_part(coupling, multiple, shares)
                found += [part] if len(part.choices) > 1 else []
        return found


class _Widest:
    """Keeps all channels; another chooser gives all other values."""

    def __init__(self, otherwise: Policy) -> None:
        self._otherwise = otherwise

    def choose(self, parameter: Parameter) -> Value:
        keeps = parameter.name.startswith(KEEP) and parameter.contains(1.0)
        return 1.0 if keeps else self._otherwise.choose(parameter)

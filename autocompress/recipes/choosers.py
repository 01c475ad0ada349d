"""Choosers that give the values of a recipe without Optuna."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.contract import Parameter, Value
from autocompress.contract.space import Chooser


class Replay:
    """Gives the values of a finished recipe; for a parameter that it lacks, the default."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def choose(self, parameter: Parameter) -> Value:
        return self._values.get(parameter.name, parameter.default)


class Fixed:
    """Gives fixed values where a search could draw them; another chooser gives all other values."""

    def __init__(self, values: Mapping[str, Value], otherwise: Chooser) -> None:
        self._values, self._otherwise = values, otherwise

    def choose(self, parameter: Parameter) -> Value:
        value = self._values.get(parameter.name)
        if value is None or not parameter.contains(value) or (parameter.choices and value not in parameter.choices):
            return self._otherwise.choose(parameter)
        return value


class Policy:
    """Chooses by rule: "default", "cheapest" or "neutral".

    Args:
        rules: rule by the first part of a parameter's name ("ghost", "bits", "recover").
        otherwise: the rule for all other parameters.
        quantizer: the only quantizer for weights.
    """

    def __init__(self, rules: Mapping[str, str], otherwise: str = "neutral", quantizer: str | None = None) -> None:
        self._rules, self._otherwise, self._quantizer = rules, otherwise, quantizer

    def choose(self, parameter: Parameter) -> Value:
        rule = self._rules.get(parameter.name.partition(".")[0], self._otherwise)
        own = [choice for choice in parameter.choices if str(choice).startswith(f"{self._quantizer}:")]
        if rule == "cheapest" and own:
            return min(own, key=lambda choice: int(str(choice).partition(":")[2]))
        if rule == "cheapest" and parameter.cheapest is not None:
            return parameter.cheapest
        if rule == "neutral":
            return parameter.leaves_alone()
        return parameter.default

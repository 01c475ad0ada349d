"""Rules for the flags of a space: ``structural`` and ``cheapest``."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from autocompress import models
from autocompress.contract import Parameter, Space, Transform, Value
from autocompress.errors import InvalidRecipe
from autocompress.graph import facts
from autocompress.quantization.leaves import leaf_types
from autocompress.testing.example import example_context
from autocompress.testing.rules import ContractViolation, operators, shapes
from autocompress.testing.spaces import Repeat, ask, by_rule

MOST_CHOICES = 6
"""Maximum number of values of one parameter that are tried."""
MOST_APPLIED = 24
"""Maximum number of recipes that are applied to compare costs."""


def check_structural_flags(method: Transform, model: nn.Module, space: Space, state: Any) -> None:
    """Checks that a parameter with ``structural=False`` does not change the structure.

    Recipes of one structure share a measured latency. Every choice is tried, and the ends and the
    middle of a range of numbers.
    """
    wrong, expected = [], _structure(method, model, dict(space.chosen), state)
    for name, parameter in space.asked.items():
        if parameter.structural:
            continue
        for value in _others(parameter, space.chosen[name]):
            found = _structure(method, model, {**space.chosen, name: value}, state)
            if found is not None and found != expected:
                wrong.append(f"{name} has structural=False, yet {value!r} gives another structure")
                break
    if wrong:
        raise ContractViolation(*wrong)


def check_cheapest(method: Transform, model: nn.Module, state: Any) -> None:
    """Checks that no recipe that differs in one parameter is cheaper than the cheapest one.

    A recipe is cheaper if it has fewer multiply-adds and fewer parameters.
    """
    _, space = ask(method, model, by_rule("cheapest"))
    least = _costs(method, model, dict(space.chosen), state)
    if least is None:
        return
    wrong, applied = [], 0
    for name, parameter in space.asked.items():
        if not parameter.structural:
            continue
        for value in _others(parameter, space.chosen[name]):
            if applied == MOST_APPLIED:
                break
            applied += 1
            found = _costs(method, model, {**space.chosen, name: value}, state)
            if found is not None and found[0] < least[0] and found[1] < least[1]:
                wrong.append(
                    f"{name}: its cheapest value is {space.chosen[name]!r}, yet {value!r} needs fewer "
                    f"multiply-adds ({found[0]:,} against {least[0]:,}) and parameters: correct cheapest="
                )
                break
    if wrong:
        raise ContractViolation(*wrong)


def _others(parameter: Parameter, chosen: Value) -> list[Value]:
    """Values to try in place of ``chosen``."""
    if parameter.choices:
        return [choice for choice in parameter.choices if choice != chosen][:MOST_CHOICES]
    assert parameter.low is not None
    assert parameter.high is not None
    middle = (parameter.low + parameter.high) / 2
    values: list[Value] = [parameter.low, middle, parameter.high]
    if parameter.is_integer:
        step = int(parameter.step or 1)
        low = int(parameter.low)
        values = [low, low + (int(middle) - low) // step * step, int(parameter.high)]
    return [value for value in dict.fromkeys(values) if value != chosen and parameter.contains(value)]


def _applied(method: Transform, model: nn.Module, values: dict[str, Value], state: Any) -> nn.Module | None:
    """The dry-run result of a recipe; None where it cannot be built or asks for more parameters."""
    try:
        params, _ = ask(method, model, Repeat(values))
    except (ContractViolation, InvalidRecipe):
        return None  # this choice asks for other parameters
    if not method.acts(params):
        return copy.deepcopy(model)
    context = replace(example_context(model, dry_run=True), state=state)
    try:
        return method.apply(copy.deepcopy(model), params, context)[0].eval()
    except InvalidRecipe:
        return None


def _structure(method: Transform, model: nn.Module, values: dict[str, Value], state: Any) -> Any:
    found = _applied(method, model, values, state)
    return None if found is None else (shapes(found), operators(found, leaf_types(method.layers)))


def _costs(method: Transform, model: nn.Module, values: dict[str, Value], state: Any) -> tuple[int, int] | None:
    """Multiply-adds and parameters; None if layers of the method count other operations."""
    found = _applied(method, model, values, state)
    leaves = leaf_types(method.layers)
    if found is None or any(isinstance(module, leaves) for module in found.modules()):
        return None
    network = facts(found, models.input_size(model))
    return network.macs, network.params

"""Finds all parameters of a define-by-run space, and the number of recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from autocompress.contract import Parameter, Space, Value
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.files import digest
from autocompress.recipes.choosers import Replay


def every_parameter(compose_with: Callable[[Chooser], Space], most_runs: int = 400) -> dict[str, Parameter]:
    """All parameters of a define-by-run space, also conditional ones.

    The function changes one choice at a time, beginning with the defaults, and continues from each
    point with a new parameter. So it finds parameters that depend on one choice or on a chain of
    choices.

    Args:
        compose_with: runs the space once with a chooser and returns the space; may raise
            InvalidRecipe.
        most_runs: maximum number of runs of the space.
    """
    found: dict[str, Parameter] = {}
    tied: dict[str, list[str]] = {}
    pending: list[dict[str, Value]] = [{}]
    tried: set[str] = set()
    runs = 0
    while pending and runs < most_runs:
        values = pending.pop(0)
        try:
            space = compose_with(Replay(values))
        except InvalidRecipe:
            continue
        finally:
            runs += 1
        new = [name for name in space.asked if name not in found]
        found.update({name: space.asked[name] for name in new})
        for name in new:
            tied.setdefault(space.asked[name].tie or name, []).append(name)
        for name in dict.fromkeys(tied[space.asked[name].tie or name][0] for name in new):
            for choice in _alternatives(found[name]):
                together = tied[found[name].tie or name]
                step = {**values, **dict.fromkeys(together, choice)}
                if (key := digest(step)) not in tried:
                    tried.add(key)
                    pending.append(step)
    return found


def _alternatives(parameter: Parameter) -> Iterator[Value]:
    if parameter.choices:
        yield from (choice for choice in parameter.choices if choice != parameter.default)
    else:
        yield from (end for end in (parameter.low, parameter.high) if end is not None and end != parameter.default)


def space_size(parameters: Mapping[str, Parameter]) -> float:
    """An upper bound of the number of recipes.

    A continuous range counts as ten values. Conditional parameters count as if they were always
    used. Tied parameters count once.
    """
    total = 1.0
    for parameter in {parameter.tie or name: parameter for name, parameter in parameters.items()}.values():
        if parameter.choices:
            total *= len(parameter.choices)
        elif parameter.is_integer:
            assert parameter.low is not None
            assert parameter.high is not None
            total *= (parameter.high - parameter.low) // (parameter.step or 1) + 1
        else:
            total *= 10
    return total

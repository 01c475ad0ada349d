"""Space: the interface by which a method defines its parameters.

Define by run: the method asks for a parameter and gets its value for this recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from autocompress import models
from autocompress.errors import InvalidRecipe

Value = str | int | float | bool
"""JSON scalars. "No change" is the string "none" (or a neutral number), never null."""


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space, under its full name (``ghost.ratio.layer3``).

    Attributes:
        choices: the values of a categorical parameter that a search draws from; empty for a number.
        named: further values of a categorical parameter, used only where a job or a recipe names
            them.
        low, high, step, log: range of a number, both ends included.
        default: the value that the method recommends.
        cheapest: the value with the lowest cost; None where the cost does not depend on it.
        neutral: the value that leaves the model unchanged. None means "none" where that is a
            choice, else the default (a parameter that matters only where another one acts).
        structural: the deployed structure depends on it, and so the latency may depend on it too.
        scope: part of the network to which one value applies: "model", "group" (of layers) or
            "coupling" (of channels).
        axis: the property that it sets: "structure", "weight bits" or "activation bits"; empty for
            other properties.
        tie: a sampler draws one value for all parameters with the same tie; empty for none.
    """

    name: str
    default: Value
    choices: tuple[Value, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    cheapest: Value | None = None
    structural: bool = True
    neutral: Value | None = None
    named: tuple[Value, ...] = ()
    scope: str = "model"
    axis: str = ""
    tie: str = ""

    @property
    def is_integer(self) -> bool:
        """Whether it is a range of whole numbers."""
        return not self.choices and isinstance(self.low, int) and isinstance(self.high, int)

    def contains(self, value: Any) -> bool:
        """Whether the parameter may have ``value``; a value of ``named`` counts."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in (*self.choices, *self.named))
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None or self.high is None:
            return False
        if self.is_integer and (not isinstance(value, int) or (value - self.low) % (self.step or 1)):
            return False
        return self.low <= value <= self.high

    def leaves_alone(self) -> Value:
        """The value that leaves the model unchanged (see ``neutral``)."""
        if self.neutral is not None:
            return self.neutral
        return "none" if "none" in self.choices else self.default

    def describe(self) -> str:
        """The range as text: ``2 | 3 | 4``, ``0.0 .. 0.7``, with values of ``named`` at the end."""
        if self.choices:
            also = f" (or {' | '.join(str(c) for c in self.named)}, where a job names it)" if self.named else ""
            return " | ".join(str(c) for c in self.choices) + also
        return f"{self.low} .. {self.high}" + (" (log)" if self.log else "")


class LimitError(ValueError):
    """A limit excludes all values of a parameter. ``name``: the parameter. ``text``: the reason."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name} {text}")
        self.name, self.text = name, text


class Chooser(Protocol):
    """Chooses values of parameters: by Optuna, from a finished recipe, or the defaults."""

    def choose(self, parameter: Parameter) -> Value:
        """A value that ``parameter`` contains."""


class Space:
    """The parameters of one recipe, with values from a chooser.

    It adds prefixes to names, applies the limits of the user, and records all parameters.

    Args:
        chooser: gives the values.
        granularity: "model", "stage" or "block"; what :meth:`groups` returns.
        limits: limits of the user, by full name: a value fixes, a list narrows the choices,
            ``{low:, high:}`` narrows the range. A name without group (``ghost.ratio``) is for all
            groups.
    """

    def __init__(self, chooser: Chooser, granularity: str = "stage", limits: Mapping[str, Any] | None = None) -> None:
        self._chooser = chooser
        self.granularity = granularity
        self._limits = dict(limits or {})
        self._prefix = ""
        self.asked: dict[str, Parameter] = {}
        """The parameters so far, by full name, with the limits of the user applied."""
        self.chosen: dict[str, Value] = {}
        """Their values: the recipe."""
        self.matched: set[str] = set()
        """Keys of ``limits`` that matched a parameter."""

    def scope(self, prefix: str) -> Space:
        """The same space with the prefix ``prefix`` and a dot before names."""
        inner = object.__new__(Space)
        inner.__dict__ = {**self.__dict__, "_prefix": f"{self._prefix}{prefix}."}
        return inner

    def groups(self, model: nn.Module) -> list[str]:
        """Names of the groups of a baseline at the granularity of the job, in network order."""
        return [group.name for group in models.fixed_groups(model, self.granularity)]

    def categorical(
        self,
        name: str,
        choices: Sequence[Value],
        *,
        default: Value,
        cheapest: Value | None = None,
        structural: bool = True,
        neutral: Value | None = None,
        searched: bool = True,
        named: Sequence[Value] = (),
        scope: str = "model",
        axis: str = "",
    ) -> Any:
        """One of ``choices`` (JSON scalars).

        Args:
            name: without the prefix of the method.
            choices: the values that a search draws from.
            default, cheapest, structural, neutral, scope, axis: as in :class:`Parameter`; values
            are among ``choices``.
            searched: False uses the default, unless a limit of the user gives a value, a list or a
                range.
            named: values that are valid but not drawn. They are used only where a limit of the user
                names them (``mode: scatter`` or ``mode: [inner, scatter]``), or in a recipe that is
                replayed.
        """
        parameter = Parameter(
            name,
            default,
            tuple(choices),
            cheapest=cheapest,
            structural=structural,
            neutral=neutral,
            named=tuple(named),
            scope=scope,
            axis=axis,
        )
        return self._ask(parameter, searched)

    def integer(
        self,
        name: str,
        low: int,
        high: int,
        *,
        default: int,
        step: int = 1,
        log: bool = False,
        cheapest: int | None = None,
        structural: bool = True,
        neutral: int | None = None,
        searched: bool = True,
        scope: str = "model",
        axis: str = "",
    ) -> int:
        """A whole number from ``low`` to ``high``, both included.

        ``searched`` is as in :meth:`categorical`.
        """
        asked = Parameter(
            name, default, (), low, high, step, log, cheapest, structural, neutral, scope=scope, axis=axis
        )
        return int(self._ask(asked, searched))

    def float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        default: float,
        step: float | None = None,
        log: bool = False,
        cheapest: float | None = None,
        structural: bool = True,
        neutral: float | None = None,
        searched: bool = True,
        scope: str = "model",
        axis: str = "",
        tie: str = "",
    ) -> float:
        """A number from ``low`` to ``high``, both included.

        ``searched`` is as in :meth:`categorical`, ``tie`` (without the method's name) as in
        :class:`Parameter`.
        """
        asked = Parameter(
            name,
            default,
            (),
            float(low),
            float(high),
            step,
            log,
            cheapest,
            structural,
            neutral,
            scope=scope,
            axis=axis,
            tie=self._prefix + tie if tie else "",
        )
        return float(self._ask(asked, searched))

    def _ask(self, parameter: Parameter, searched: bool) -> Value:
        parameter = replace(parameter, name=self._prefix + parameter.name)
        key = self._limit_key(parameter.name)
        if key is not None:
            self.matched.add(key)
            parameter = narrow(parameter, self._limits[key])
        elif not searched:
            parameter = narrow(parameter, parameter.default)
        value = parameter.choices[0] if len(parameter.choices) == 1 else self._chooser.choose(parameter)
        if not parameter.contains(value):
            raise InvalidRecipe(f"{parameter.name} cannot be {value!r}: {parameter.describe()}")
        self.asked[parameter.name] = parameter
        self.chosen[parameter.name] = value
        return value

    def _limit_key(self, name: str) -> str | None:
        """The longest key of the limits that is ``name`` or a dotted prefix of it."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in self._limits:
                return key
        return None


def narrow(parameter: Parameter, limit: Any) -> Parameter:
    """``parameter`` narrowed by a limit of the user.

    A value fixes it, a list narrows the choices, and ``{low:, high:}`` narrows a range. A value of
    ``parameter.named`` becomes a choice if the limit names it.

    Raises:
        LimitError: if no value is left; the message has the range.
    """
    if isinstance(limit, Mapping):
        low, high = limit.get("low", parameter.low), limit.get("high", parameter.high)
        inside = not parameter.choices and parameter.contains(low) and parameter.contains(high) and low <= high
        if not inside or set(limit) - {"low", "high"}:
            raise LimitError(parameter.name, f"cannot be {dict(limit)}: it takes {parameter.describe()}")
        number = int if parameter.is_integer else float
        return _with_default_inside(replace(parameter, low=number(low), high=number(high)))
    wanted = tuple(limit) if isinstance(limit, list | tuple) else (limit,)
    if not parameter.choices and not parameter.is_integer:
        wanted = tuple(float(w) if isinstance(w, int) and not isinstance(w, bool) else w for w in wanted)
    for value in wanted:
        if not parameter.contains(value):
            raise LimitError(parameter.name, f"cannot be {value!r}: it takes {parameter.describe()}")
    if not wanted:
        raise LimitError(parameter.name, "has an empty list, which leaves nothing to choose from")
    return _with_default_inside(replace(parameter, choices=wanted, named=(), low=None, high=None, step=None, log=False))


def _with_default_inside(parameter: Parameter) -> Parameter:
    """Moves default, cheapest and neutral to an allowed value where the limits exclude them."""

    def inside(value: Value) -> Value:
        if parameter.contains(value):
            return value
        if parameter.choices:
            numbers = [c for c in parameter.choices if isinstance(c, int | float)]
            if isinstance(value, int | float) and numbers:
                return min(numbers, key=lambda c: abs(c - value))
            return parameter.choices[0]
        assert parameter.low is not None
        assert parameter.high is not None
        return min(max(value, parameter.low), parameter.high)

    cheapest = None if parameter.cheapest is None else inside(parameter.cheapest)
    neutral = None if parameter.neutral is None else inside(parameter.neutral)
    return replace(parameter, default=inside(parameter.default), cheapest=cheapest, neutral=neutral)

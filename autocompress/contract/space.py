"""Space: all that a method sees of the search.

Define by run: ask for a parameter, get its value for this recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from autocompress import models
from autocompress.errors import InvalidRecipe

Value = str | int | float | bool
"""JSON scalars. "Leave it as it is" is the string "none" (or a neutral number), never null."""


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space, under its full name (``ghost.ratio.layer3``).

    Attributes:
        choices: the values of a categorical parameter that a search draws from; empty for a number.
        named: further values of a categorical parameter, which it has only where a job or a recipe
        names them. low, high, step, log: range of a number, both ends included.
        default: what the method recommends.
        cheapest: the value that gives the lowest cost; None where cost does not depend on it.
        neutral: the value that leaves the model as it is; None stands for "none" where that is a
            choice, else for the default (a parameter that only matters where another one acts).
        structural: the deployed structure depends on it, and so may latency.
        scope: what one value holds for: "model", "group" (of layers) or "coupling" (of channels).
        axis: what it decides: "structure", "weight bits", "activation bits"; empty where it is none
            of these.
        tie: parameters with the same tie get one value where a sampler draws; empty for a parameter
            of its own.
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
        """A whole-number range."""
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
        """The value that leaves the model as it is (see ``neutral``)."""
        if self.neutral is not None:
            return self.neutral
        return "none" if "none" in self.choices else self.default

    def describe(self) -> str:
        """The range in words: ``2 | 3 | 4``, ``inner | group (or scatter, where a job names it)``,
        ``0.0 .. 0.7``.
        """
        if self.choices:
            also = f" (or {' | '.join(str(c) for c in self.named)}, where a job names it)" if self.named else ""
            return " | ".join(str(c) for c in self.choices) + also
        return f"{self.low} .. {self.high}" + (" (log)" if self.log else "")


class LimitError(ValueError):
    """A limit leaves no value of a parameter: ``name`` is the parameter, ``text`` the reason."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name} {text}")
        self.name, self.text = name, text


class Chooser(Protocol):
    """Where values come from: Optuna, a finished recipe, the defaults."""

    def choose(self, parameter: Parameter) -> Value:
        """A value that ``parameter`` contains."""


class Space:
    """Facade over a chooser.

    Prefixes names, applies what the user fixed or narrowed, and remembers what was asked.

    Args:
        chooser: gives the values.
        granularity: "model", "stage" or "block"; what :meth:`groups` returns.
        limits: the user's YAML by full name: a value fixes, a list narrows the choices, ``{low:,
            high:}`` the range. A name without group (``ghost.ratio``) holds for all groups.
    """

    def __init__(self, chooser: Chooser, granularity: str = "stage", limits: Mapping[str, Any] | None = None) -> None:
        self._chooser = chooser
        self.granularity = granularity
        self._limits = dict(limits or {})
        self._prefix = ""
        self.asked: dict[str, Parameter] = {}
        """Each parameter asked for, by full name, after the user's limits."""
        self.chosen: dict[str, Value] = {}
        """Their values: the recipe."""
        self.matched: set[str] = set()
        """Keys of ``limits`` that a parameter answered to."""

    def scope(self, prefix: str) -> Space:
        """The same space with names prefixed by ``prefix`` and a dot."""
        inner = object.__new__(Space)
        inner.__dict__ = {**self.__dict__, "_prefix": f"{self._prefix}{prefix}."}
        return inner

    def groups(self, model: nn.Module) -> list[str]:
        """Names of the parameter groups of ``model`` at the job's granularity, in network order."""
        return [group.name for group in models.groups(model, self.granularity)]

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
            name: within the method; the method's prefix is put before it.
            choices: what a search draws from.
            default, cheapest, structural, neutral, scope, axis: as in :class:`Parameter`; values
            are among ``choices``.
            searched: False for the default, unless the user's limits give it a value, a list or a
                range.
            named: values that are valid too but never drawn: a recipe has one only where the user's
                limits name it (``mode: scatter`` or ``mode: [inner, scatter]``), or where it is a
                recipe that is replayed.
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
        """The longest key of the user's limits that is ``name`` or a dotted prefix of it."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in self._limits:
                return key
        return None


def narrow(parameter: Parameter, limit: Any) -> Parameter:
    """``parameter`` within the user's limit.

    A value fixes it, a list narrows it, and ``{low:, high:}`` narrows a range.

    A value of ``parameter.named`` becomes a choice where the limit names it.

    Raises:
        LimitError: if nothing of the parameter is left, with the range in the message.
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
    """Moves default and cheapest to an allowed value where the user's limits excluded them."""

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

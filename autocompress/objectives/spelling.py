"""Bounds as they are written in a job, with units: ``0.5x``, ``4 ms``, ``2 MB``, ``300 M``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from autocompress.errors import HintedError, did_you_mean
from autocompress.objectives.quantities import BY_NAME

_AMOUNT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([^\W\d]*)\s*")


class Bound(BaseModel):
    """An upper bound: a ratio to the baseline, or an amount in the quantity's unit.

    Attributes:
        value: the ratio, or points, milliseconds, bytes, microjoules, a count. Only a bound in
            points may be 0.
        relative: True for a ratio.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    value: float = Field(ge=0)
    relative: bool


def parse_bound(quantity: str, given: Any) -> Any:
    """The bound that ``given`` spells: ``"0.5x"`` or ``"4 ms"``.

    A number without a unit is a count; other quantities refuse it.

    None, a Bound and a mapping are returned as they are.

    Raises:
        HintedError: if it is not a bound of ``quantity``.
    """
    if given is None or isinstance(given, Bound | Mapping):
        return given
    units = BY_NAME[quantity].units
    example = f"write a ratio such as 0.5x or an amount such as {BY_NAME[quantity].example}"
    match = _AMOUNT.fullmatch(str(given)) if isinstance(given, str | int | float) else None
    if match is None or isinstance(given, bool):
        raise HintedError(f"cannot be {given!r}", example)
    try:
        number, unit = float(match[1]), match[2]
    except ValueError:
        raise HintedError(f"cannot be {given!r}", example) from None
    relative = unit in ("x", "X")
    if not relative and unit not in units:
        if not unit:
            raise HintedError(f"has no unit: {given}", example)
        known = [*filter(None, units), "x"]
        close = [name for name in known if name.lower() == unit.lower()]
        raise HintedError(f"has an unknown unit '{unit}'", did_you_mean(close[0] if close else unit, known))
    value = number if relative else number * units[unit]
    if not value > 0 or not math.isfinite(value):
        raise HintedError(f"must be more than 0, not {given}", example)
    return Bound(value=value, relative=relative)


def positive(bound: Bound | None) -> Bound | None:
    """``bound`` itself.

    Raises:
        HintedError: if it is 0.
    """
    if bound is not None and bound.value == 0:
        raise HintedError("must be more than 0")
    return bound


def spell_bound(quantity: str, bound: Bound | None) -> str | None:
    """The text that :func:`parse_bound` reads back as the same bound."""
    if bound is None:
        return None
    number = str(int(bound.value)) if bound.value.is_integer() else repr(bound.value)
    unit = BY_NAME[quantity].base_unit
    return f"{number}x" if bound.relative else f"{number} {unit}".rstrip()

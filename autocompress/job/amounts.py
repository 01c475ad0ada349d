"""Amounts with units: ``0.5x``, ``4 ms``, ``2 MB``, ``300 M``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from autocompress.errors import did_you_mean

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}

UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {
        "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
    },
    "energy": {"uJ": 1.0, "µJ": 1.0, "μJ": 1.0, "mJ": 1e3, "J": 1e6},
    "macs": _COUNTS,
    "params": _COUNTS,
}  # fmt: skip
"""Factor of each unit to the quantity's base unit: milliseconds, bytes, microjoules, a count, a count."""

_EXAMPLES = {"latency": "4 ms", "size": "2 MB", "energy": "50 uJ", "macs": "20 M", "params": "300 k"}
_BASE = {"latency": " ms", "size": " B", "energy": " uJ", "macs": "", "params": ""}
_AMOUNT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([^\W\d]*)\s*")


class HintedError(ValueError):
    """A value that cannot be, in words that end the sentence ``<key> ...``, with a hint.

    Args:
        message: the end of the sentence.
        hint: what to do about it.
        key: which key it is about, where the validator sees more than one.
    """

    def __init__(self, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.key = key


class Bound(BaseModel):
    """An upper bound: a ratio to the baseline, or an amount in the quantity's base unit.

    Attributes:
        value: the ratio, or milliseconds, bytes, microjoules, a count.
        relative: True for a ratio.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    value: float = Field(gt=0)
    relative: bool


def parse_bound(quantity: str, given: Any) -> Any:
    """The bound that ``given`` spells: ``"0.5x"``, ``"4 ms"``; a bare number only where the base unit is a count.

    Raises:
        HintedError: if it is no bound of ``quantity``.
    """
    if given is None or isinstance(given, Bound | Mapping):
        return given
    example = f"write a ratio such as 0.5x or an amount such as {_EXAMPLES[quantity]}"
    match = _AMOUNT.fullmatch(str(given)) if isinstance(given, str | int | float) else None
    if match is None or isinstance(given, bool):
        raise HintedError(f"cannot be {given!r}", example)
    try:
        number, unit = float(match[1]), match[2]
    except ValueError:
        raise HintedError(f"cannot be {given!r}", example) from None
    relative = unit in ("x", "X")
    if not relative and unit not in UNITS[quantity]:
        if not unit:
            raise HintedError(f"has no unit: {given}", example)
        known = [*filter(None, UNITS[quantity]), "x"]
        close = [name for name in known if name.lower() == unit.lower()]
        raise HintedError(f"has an unknown unit '{unit}'", did_you_mean(close[0] if close else unit, known))
    value = number if relative else number * UNITS[quantity][unit]
    if not value > 0 or not math.isfinite(value):
        raise HintedError(f"must be more than 0, not {given}", example)
    return Bound(value=value, relative=relative)


def spell_bound(quantity: str, bound: Bound | None) -> str | None:
    """The text that :func:`parse_bound` reads back as the same bound."""
    if bound is None:
        return None
    number = str(int(bound.value)) if bound.value.is_integer() else repr(bound.value)
    return f"{number}x" if bound.relative else f"{number}{_BASE[quantity]}"

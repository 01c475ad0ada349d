"""Texts of users and of libraries on a page: their direction and their length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 400
"""Characters of a text that are shown at once."""
_TURNING = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def upright(value: Any) -> Any:
    """``value`` without the characters that change the direction of the text behind them.

    Right-to-left scripts need none of them. Strings in mappings and lists are changed too, and
    other values are returned unchanged.
    """
    if isinstance(value, str):
        return value.translate(_TURNING)
    if isinstance(value, Mapping):
        return {upright(key): upright(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [upright(one) for one in value]
    return value


def short(text: str, longest: int = LONGEST) -> str:
    """``text``, cut to ``longest`` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

"""Checks settings of the images from a job, a checkpoint or a configuration file.

Files may come from untrusted sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from autocompress.data.preprocessing import CROP_MODES, INTERPOLATIONS
from autocompress.errors import UserError, did_you_mean

LARGEST_SIDE = 16_384
"""Largest side in pixels. A larger number is a mistake, and one image would fill the memory."""
Error = Callable[[str, str, str], UserError]
"""Makes an error from key, text and hint."""


class Unfit(ValueError):
    """An invalid value of a setting; the message says what the value must be."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def checked(key: str, given: Any, channels: int) -> Any:
    """The value of ``key`` in one form: sizes as (height, width), mean and std as float tuples.

    Args:
        key: one of ``SETTINGS``.
        given: the value to check.
        channels: number of channels of the images.

    Raises:
        Unfit: if the value is invalid.
    """
    return SETTINGS[key](given, channels)


def all_checked(given: Mapping[str, Any], channels: int, error: Error) -> dict[str, Any]:
    """All settings in ``given``, checked; None counts as not given.

    Raises:
        UserError: made by ``error`` for the first invalid value.
    """
    found = {}
    for key in SETTINGS:
        if (value := given.get(key)) is not None:
            try:
                found[key] = checked(key, value, channels)
            except Unfit as unfit:
                raise error(key, f"{unfit}, not {_shown(value)}", unfit.hint) from None
    return found


def those_that_fit(given: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The valid settings in ``given``; invalid ones are left out."""
    found = {}
    for key in SETTINGS:
        try:
            if (value := given.get(key)) not in (None, ""):
                found[key] = checked(key, value, channels)
        except Unfit:
            continue
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _numbers(given: Any, channels: int, what: str, above: float) -> tuple[float, ...]:
    values = given if isinstance(given, list | tuple) else [given]
    numbers = tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    hint = "give one for all channels" if channels == 1 else f"give one for all channels, or {channels}"
    fits = len(numbers) == len(values) and len(numbers) in (1, channels)
    if not fits or not all(above < number < math.inf for number in numbers):
        raise Unfit(f"must be {what}", hint)
    return numbers


def _mean(given: Any, channels: int) -> tuple[float, ...]:
    return _numbers(given, channels, "finite numbers", -math.inf)


def _std(given: Any, channels: int) -> tuple[float, ...]:
    return _numbers(given, channels, "finite numbers above 0", 0.0)


def _crop_pct(given: Any, channels: int) -> float:
    del channels
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0.1 <= given <= 1:
        raise Unfit("must be a number from 0.1 to 1")
    return float(given)


def _crop_mode(given: Any, channels: int) -> str:
    del channels
    return _word(given, CROP_MODES)


def _interpolation(given: Any, channels: int) -> str:
    del channels
    return _word(given, INTERPOLATIONS)


def _word(given: Any, known: tuple[str, ...]) -> str:
    if given not in known:
        hint = did_you_mean(given, known) if isinstance(given, str) else ""
        raise Unfit(f"must be {', '.join(known[:-1])} or {known[-1]}", hint if hint.startswith("did") else "")
    return str(given)


def _side(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= LARGEST_SIDE


def _img_size(given: Any, channels: int) -> tuple[int, int]:
    del channels
    sides = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(sides) != 2 or not all(map(_side, sides)):
        raise Unfit("must be a number of pixels above 0, or [height, width]")
    return sides[0], sides[1]


def _input_size(given: Any, channels: int) -> tuple[int, int, int]:
    del channels
    if not isinstance(given, list | tuple) or len(given) != 3 or not all(map(_side, given)):
        raise Unfit("must be [channels, height, width]")
    return given[0], given[1], given[2]


SETTINGS: dict[str, Callable[[Any, int], Any]] = {
    "input_size": _input_size,
    "img_size": _img_size,
    "mean": _mean,
    "std": _std,
    "crop_pct": _crop_pct,
    "crop_mode": _crop_mode,
    "interpolation": _interpolation,
}
"""The keys of ``timm.data.resolve_data_config`` for the preparation of an image."""


def whole_number(given: Any, least: int) -> int:
    """``given``, if it is a whole number of at least ``least``.

    Raises:
        Unfit: if it is not.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise Unfit(f"must be a whole number of at least {least}")
    return given

"""Interpolates measured divergences of a part to all its choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

TINY = 1e-12


def interpolate(known: Mapping[int, float], errors: Sequence[float]) -> np.ndarray:
    """Divergence of every choice from some measured ones, linear in log divergence and log error.

    Divergence is about a power of the output error of a choice, with an exponent that differs
    between parts. Below the smallest and above the largest measured error, it is proportional to
    the error.

    Args:
        known: measured divergence by index of the choice. Index 0, the neutral choice, is 0.
        errors: output error of each choice, growing with the index; entry 0 is 0.

    Returns:
        float64 ``[choices]``, never decreasing; NaN everywhere except at 0 if nothing is known.
    """
    error = np.maximum.accumulate(np.maximum(np.asarray(errors, dtype=float), 0.0))
    found = np.full(len(error), np.nan)
    found[0] = 0.0
    index = sorted(place for place, value in known.items() if place > 0 and np.isfinite(value))
    if not index:
        return found
    # With noise, a deeper cut can have a smaller divergence. It then gets the divergence of the
    # shallower cut.
    values = np.maximum.accumulate([max(known[place], TINY) for place in index])
    at = np.log(np.maximum(error[index], TINY))
    at = at + np.arange(len(at)) * 1e-9  # keeps equal errors apart
    wanted = np.log(np.maximum(error, TINY))
    logs = np.interp(wanted, at, np.log(values))
    logs += np.minimum(wanted - at[0], 0.0) + np.maximum(wanted - at[-1], 0.0)
    found[1:] = np.exp(logs)[1:]
    found[index] = values
    return np.maximum.accumulate(found)

"""Recipes with 8 bits, except in the most sensitive groups of layers, which stay in float."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from autocompress.contract import Params, Value
from autocompress.recipes.jobspace import JobSpace
from autocompress.sensitivity.mixedbits import WEIGHT, asked, composed
from autocompress.sensitivity.table import Sensitivity, Width

SHARES = (0.5, 0.8, 0.95)
"""Shares of the loss of 8 bits that the float groups take away."""
_FLOAT = "none"


def offered(space: JobSpace) -> tuple[list[Width], dict[str, Params]]:
    """The default bits of the groups that may stay in float, and parameters of their quantizers."""
    recipe = composed(space, {})
    if recipe is None:
        return [], {}
    choices = {name.removeprefix(WEIGHT): parameter.choices for name, parameter in asked(space, {}).items()}
    widths: list[Width] = []
    for group, own in recipe.bits.items():
        if _FLOAT in choices.get(group, ()):
            widths.append(Width(group, "weight", own.weight_quantizer, own.weight_bits))
            widths.append(Width(group, "activation", own.activation_quantizer, own.activation_bits))
    return widths, dict(recipe.quantizers)


def starting_points(space: JobSpace, table: Sequence[Sensitivity]) -> Iterator[tuple[str, dict[str, Value]]]:
    """Recipes with as few float groups as take away each of ``SHARES``.

    Losses of groups are added, as in ``table``. A group loses what its weights and its activations
    lose. A recipe without any integers is left out.

    Args:
        space: space of recipes of the job.
        table: the losses of :func:`offered`.

    Yields:
        Label and values.
    """
    losses: dict[str, float] = {}
    for row in table:
        losses[row.group] = losses.get(row.group, 0.0) + row.loss
    whole, ordered = math.fsum(losses.values()), sorted(losses, key=lambda group: -losses[group])
    groups = len(recipe.bits) if (recipe := composed(space, {})) is not None else 0
    counts: list[int] = []
    for share in SHARES if whole > 0 else ():
        taken = [math.fsum(losses[group] for group in ordered[:count]) for count in range(1, len(ordered) + 1)]
        counts.append(next((at for at, value in enumerate(taken, 1) if value >= share * whole), len(ordered)))
    for count in dict.fromkeys(counts):
        recipe = composed(space, {f"{WEIGHT}{group}": _FLOAT for group in ordered[:count]})
        if count < groups and recipe is not None and recipe.bits:
            yield f"8-bit, the {count} most sensitive of {groups} groups in float", dict(recipe.values)

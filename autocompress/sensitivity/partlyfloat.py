"""Recipes with 8 bits, except in the most sensitive groups of layers, which stay in float."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from autocompress.contract import Params, Value
from autocompress.recipes.jobspace import JobSpace
from autocompress.sensitivity.mixedbits import WEIGHT, asked, composed
from autocompress.sensitivity.table import Sensitivity, Width

SHARES = (0.5, 0.8, 0.95)
"""Shares of the loss caused by 8 bits that are avoided by keeping groups in float."""
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
    """For each of ``SHARES``, the recipe with the fewest float groups that avoid as much.

    Losses of groups are added, as in ``table``. The loss of a group is the sum of the losses of its
    weights and its activations. A recipe without any integers is left out.

    Args:
        space: space of recipes of the job.
        table: the losses of :func:`offered`.

    Yields:
        Label and values.
    """
    losses: dict[str, float] = {}
    for row in table:
        losses[row.group] = losses.get(row.group, 0.0) + row.loss
    ordered = sorted(losses, key=lambda group: -losses[group])
    taken = list(accumulate(losses[group] for group in ordered))
    everywhere = composed(space, {})
    if everywhere is None or not taken or not taken[-1] > 0:  # NaN too
        return
    counts = [1 + bisect_left(taken, share * taken[-1]) for share in SHARES]
    groups = len(everywhere.bits)
    for count in dict.fromkeys(counts):
        recipe = composed(space, {f"{WEIGHT}{group}": _FLOAT for group in ordered[:count]})
        if count < groups and recipe is not None and recipe.bits:
            yield f"8-bit, the {count} most sensitive of {groups} groups in float", dict(recipe.values)

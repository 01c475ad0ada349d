"""Mixed bits: the allowed numbers of bits of groups, and recipes chosen by sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from autocompress.contract import Parameter, Params, Quantizer, Space, Value
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.recipes.choosers import Fixed, Policy
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe, compose
from autocompress.sensitivity.table import Sensitivity, Width, lowest_widths

MOST_LOSS = 0.05
"""Largest total loss of a starting point in nats, before training; see ``lowest_widths``."""
WEIGHT, ACTIVATION = "bits.weight.", "bits.activation."
"""Prefixes of names of parameters; the name of a group follows."""


def offered(space: JobSpace) -> tuple[list[Width], dict[str, Params]]:
    """The allowed numbers of bits of each group, and default parameters of their quantizers.

    They are in network order, the largest first. A quantizer that needs more epochs than a trial
    may have is left out.

    Returns:
        Empty if no group has a choice.
    """
    weights = {name: parameter.choices for name, parameter in asked(space, {}).items() if name.startswith(WEIGHT)}
    names = [method.name for method in space.methods if isinstance(method, Quantizer)]
    found: set[Width] = set()
    params: dict[str, Params] = {}
    for quantizer in names:
        own = {name: [c for c in choices if _quantizer(c) == quantizer] for name, choices in weights.items()}
        fixed: dict[str, Value] = {name: choices[0] for name, choices in own.items() if choices}
        recipe = composed(space, fixed) if fixed else None
        if recipe is None:
            continue
        params |= recipe.quantizers
        found |= {Width(_group(name), "weight", quantizer, _bits(c)) for name in fixed for c in own[name]}
        for name, parameter in asked(space, fixed).items():
            if name.startswith(ACTIVATION) and name.replace(ACTIVATION, WEIGHT) in fixed:
                uniform = recipe.bits[_group(name)].activation_quantizer
                found |= {Width(_group(name), "activation", uniform, int(bits)) for bits in parameter.choices}
    if not any(len(some) > 1 for some in _by_tensor(found).values()):
        return [], {}
    order = [_group(name) for name in weights]
    ranked = sorted(found, key=lambda w: (order.index(w.group), w.role != "weight", names.index(w.quantizer), -w.bits))
    return ranked, {name: params[name] for name in names if name in params}


def starting_points(space: JobSpace, table: Sequence[Sensitivity]) -> Iterator[tuple[str, dict[str, Value]]]:
    """Recipes of mixed bits, with defaults of QUANTIZE for the rest.

    In the first, only weights have fewer bits; in the second, weights and activations share the
    loss evenly. If no number of bits can be lowered within ``MOST_LOSS``, there is no recipe.
    """
    for label, of_weights, of_activations in (
        ("mixed weight bits by sensitivity", MOST_LOSS, 0.0),
        ("mixed bits by sensitivity", MOST_LOSS / 2, MOST_LOSS / 2),
    ):
        weights = lowest_widths(table, "weight", of_weights)
        fixed: dict[str, Value] = {f"{WEIGHT}{g}": f"{row.quantizer}:{row.bits}" for g, row in weights.items()}
        recipe = composed(space, fixed)
        if recipe is None:
            continue
        acting = {group: bits.activation_quantizer for group, bits in recipe.bits.items()}
        own = [row for row in table if row.quantizer == acting.get(row.group)]
        activations = lowest_widths(own, "activation", of_activations)
        fixed |= {f"{ACTIVATION}{group}": row.bits for group, row in activations.items()}
        recipe = composed(space, fixed)
        if recipe is not None and _is_mixed(table, [*weights.values(), *activations.values()]):
            yield label, dict(recipe.values)


def _is_mixed(table: Sequence[Sensitivity], chosen: Sequence[Sensitivity]) -> bool:
    widest = {key: max(width.bits for width in some) for key, some in _by_tensor(table).items()}
    return any(row.bits < widest[row.group, row.role] for row in chosen)


def _by_tensor(widths: Sequence[Width] | set[Width]) -> dict[tuple[str, str], list[Width]]:
    found: dict[tuple[str, str], list[Width]] = {}
    for width in widths:
        found.setdefault((width.group, width.role), []).append(width)
    return found


def _chooser(space: JobSpace, fixed: Mapping[str, Value]) -> Chooser:
    quantizers = [method.name for method in space.methods if isinstance(method, Quantizer)]
    return Fixed(fixed, Policy(dict.fromkeys(["bits", "qat", *quantizers], "default")))


def composed(space: JobSpace, fixed: Mapping[str, Value]) -> Recipe | None:
    """The recipe with defaults of QUANTIZE and the values ``fixed``; None if it is invalid."""
    with suppress(InvalidRecipe):
        return space.compose(_chooser(space, fixed))
    return None


def asked(space: JobSpace, fixed: Mapping[str, Value]) -> dict[str, Parameter]:
    """The parameters by name that :func:`composed` chooses."""
    run = Space(_chooser(space, fixed), space.granularity, space.limits.values)
    with suppress(InvalidRecipe):  # parameters before a conflict of methods are used
        compose(run, space.model, space.methods, space.epochs, space.multiple)
    return run.asked


def _group(name: str) -> str:
    return name.removeprefix(WEIGHT).removeprefix(ACTIVATION)


def _quantizer(choice: Value) -> str:
    return str(choice).partition(":")[0]


def _bits(choice: Value) -> int:
    return int(str(choice).partition(":")[2])

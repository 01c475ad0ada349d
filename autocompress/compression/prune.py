"""PRUNE: removes channels in the order that the recipe's pruner gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autocompress import models
from autocompress.channels.couplings import couplings as find_couplings
from autocompress.channels.known import known_couplings
from autocompress.channels.removal import remove
from autocompress.channels.widths import nothing_to_remove, of_layers, widths
from autocompress.contract import Context, Coupling, LayerSpec, Params, Plan, Pruner
from autocompress.errors import InvalidRecipe
from autocompress.graph import UntraceableModel
from autocompress.recipes.pruning import Pruning, prunable

VERSION = "1"


@dataclass(frozen=True)
class Cut:
    """A planned removal of channels.

    Attributes:
        couplings: couplings of the network, in ``mode``.
        keep: for each coupling that loses channels, the channels that stay, ascending.
        mode: mode of the couplings.
    """

    couplings: Sequence[Coupling]
    keep: Mapping[str, Sequence[int]]
    mode: str

    def plan(self, size: tuple[int, int, int]) -> Plan:
        """The plan, as JSON, from which :func:`rebuild` makes the structure on the same network."""
        return {"mode": self.mode, "input_size": list(size), "keep": {n: list(k) for n, k in self.keep.items()}}


def affected(model: nn.Module, baseline: nn.Module, asked: Pruning, specs: Sequence[LayerSpec]) -> list[Coupling]:
    """All couplings of ``model`` in the recipe's mode, also those that lose no channel.

    Args:
        model: the network that enters the stage.
        baseline: the baseline, whose couplings the recipe names.
        asked: parameters of PRUNE in the recipe.
        specs: descriptions of the layer types that plugins bring.

    Raises:
        InvalidRecipe: if the network cannot be traced, or would lose no channel.
    """
    size = models.input_size(baseline)
    try:
        every = known_couplings(model, size, asked.mode, specs)
    except UntraceableModel as error:  # a transform made it untraceable
        raise InvalidRecipe(str(error)) from error
    if not _widths(every, baseline, asked):
        layers = of_layers(asked.keep, prunable(baseline, asked.mode))
        raise InvalidRecipe(nothing_to_remove(every, layers, asked.multiple))
    return every


def losing(every: Sequence[Coupling], baseline: nn.Module, asked: Pruning) -> list[Coupling]:
    """Those of ``every`` that lose channels."""
    kept = _widths(every, baseline, asked)
    return [coupling for coupling in every if coupling.name in kept]


def decide(
    every: Sequence[Coupling],
    baseline: nn.Module,
    asked: Pruning,
    orders: Mapping[str, Sequence[int]] | None,
) -> Cut:
    """Decides which channels stay.

    Args:
        every: the couplings of the network that enters the stage; see :func:`affected`.
        baseline: the baseline, whose couplings the recipe names.
        asked: parameters of PRUNE in the recipe.
        orders: order of the channels of each coupling; None in a dry run, where only the numbers of
            channels matter.
    """
    by_name = {coupling.name: coupling for coupling in every}
    keep: dict[str, list[int]] = {}
    for name, counts in _widths(every, baseline, asked).items():
        coupling = by_name[name]
        if orders is None:
            keep[name] = sorted(
                channel for block, n in zip(coupling.blocks, counts, strict=True) for channel in block[:n]
            )
        else:
            keep[name] = coupling.left_by(orders[name], counts)
    return Cut(every, keep, asked.mode)


def _widths(every: Sequence[Coupling], baseline: nn.Module, asked: Pruning) -> dict[str, list[int]]:
    return widths(every, of_layers(asked.keep, prunable(baseline, asked.mode)), asked.multiple)


def orders_of(pruner: Pruner, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, list[int]]:
    """The pruner's orders of the channels of ``couplings``, checked.

    Raises:
        InvalidRecipe: if an order is missing, or is no permutation of the coupling's channels.
    """
    told = pruner.orders(couplings, params, context)
    found: dict[str, list[int]] = {}
    for coupling in couplings:
        if coupling.name not in told:
            raise InvalidRecipe(f"the pruner '{pruner.name}' gives no order for the channels of {coupling.name}")
        try:
            order = [int(channel) for channel in told[coupling.name]]
            coupling.check_order(order)
        except (TypeError, ValueError) as error:
            text = f"the pruner '{pruner.name}' gives a wrong order for the channels of {coupling.name}: {error}"
            raise InvalidRecipe(text) from error
        found[coupling.name] = order
    return found


def rebuild(model: nn.Module, plan: Plan, specs: Sequence[LayerSpec]) -> nn.Module:
    """Removes the channels that ``plan`` names, in place and without data."""
    channels, height, width = plan["input_size"]
    size = (int(channels), int(height), int(width))
    every = find_couplings(model, size, plan["mode"], specs, verify=False)
    return remove(model, plan["keep"], size, plan["mode"], specs, couplings=every).eval()

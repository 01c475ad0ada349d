"""PRUNE: what a recipe asks of channel removal, and the removal in the order of one pruner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from autocompress import models
from autocompress.contract import Context, Coupling, LayerSpec, Params, Plan, Pruner, Space
from autocompress.contract.coupling import MODES
from autocompress.errors import InvalidRecipe
from autocompress.graph import UntraceableModel
from autocompress.pruning.couplings import couplings as find_couplings
from autocompress.pruning.known import fixed_couplings, known_couplings
from autocompress.pruning.removal import remove
from autocompress.pruning.widths import of_layers, widths

VERSION = "1"
SIXTEENTH = 1 / 16
"""Step and least value of ``prune.keep``."""
DEFAULT_KEEP = 10 / 16
OFFERED = ("inner", "group")
"""Modes that a search draws from."""
MULTIPLES = (1, 4, 8, 16)
STEM_STAYS = "the layer that reads the image stays whole"


@dataclass(frozen=True)
class Pruning:
    """What a recipe asks of PRUNE.

    Attributes:
        method: the pruner that orders the channels.
        params: its own parameters.
        keep: by coupling of the baseline, the share of the channels that stays.
        mode: of the couplings: "inner", "group" or "scatter".
        multiple: of the number of channels that stay, rounded up.
    """

    method: str
    params: Params
    keep: Mapping[str, float]
    mode: str
    multiple: int

    def record(self) -> dict[str, Any]:
        """As JSON, for content keys."""
        return asdict(self)


def offered(model: nn.Module, mode: str) -> list[Coupling]:
    """The couplings of a baseline, which never changes, that may lose channels in ``mode``: all but
    the stem's own.
    """
    stem = set(models.stem(model))
    return [
        coupling
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.prunable and not stem.issuperset(coupling.producers)
    ]


def reasons(model: nn.Module, mode: str = "group") -> dict[str, str]:
    """Why channels are left alone, by coupling. Those that may lose channels are not in it."""
    able = {coupling.name for coupling in offered(model, mode)}
    return {
        coupling.name: "; ".join(coupling.reasons) or STEM_STAYS
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.name not in able
    }


def refusal(model: nn.Module) -> str | None:
    """Why no channel of a baseline can be removed; None where some can."""
    try:
        if any(offered(model, mode) for mode in OFFERED):
            return None
        told = sorted(reasons(model).values(), key=lambda reason: reason == STEM_STAYS)
    except UntraceableModel as error:
        return str(error)
    return f"none of its channels can be removed: {next(iter(told), 'it has no convolution and no linear layer')}"


def search_space(space: Space, model: nn.Module, pruners: Sequence[Pruner]) -> Pruning | None:
    """The pruner first, then widths; None where the recipe leaves all channels.

    Args:
        space: not scoped.
        model: the baseline, which never changes.
        pruners: those that apply, in the manager's order.

    Raises:
        InvalidRecipe: if the shares and the multiple together would remove nothing.
    """
    own = space.scope("prune")
    searched = [pruner for pruner in pruners if pruner.searched] or list(pruners)
    others = [pruner.name for pruner in pruners if pruner not in searched]
    names = [pruner.name for pruner in searched]
    name = own.categorical("method", ["none", *names], default=names[0], named=others, structural=False)
    if name == "none":
        return None
    mode = own.categorical(
        "mode", OFFERED, default="inner", cheapest="group", named=[mode for mode in MODES if mode not in OFFERED]
    )
    multiple = own.categorical("multiple", MULTIPLES, default=8, cheapest=1)
    every = offered(model, mode)
    groups = models.groups(model, space.granularity)
    keep = {
        coupling.name: own.float(
            f"keep.{coupling.name}",
            SIXTEENTH,
            1.0,
            step=SIXTEENTH,
            default=DEFAULT_KEEP,
            cheapest=SIXTEENTH,
            neutral=1.0,
            scope="coupling",
            axis="structure",
            tie=f"keep.{models.group_of(coupling.name, groups)}.*",
        )
        for coupling in every
    }
    pruner = next(pruner for pruner in pruners if pruner.name == name)
    params = dict(pruner.search_space(space.scope(name), model))
    if all(share == 1 for share in keep.values()):
        return None
    if not widths(every, of_layers(keep, every), multiple):
        raise InvalidRecipe(f"no layer loses a channel at these widths, rounded to multiples of {multiple}")
    return Pruning(name, params, keep, mode, multiple)


@dataclass(frozen=True)
class Cut:
    """A removal that is decided and not yet made.

    Attributes:
        couplings: of the network, in the mode.
        keep: by coupling, the channels that stay, ascending; couplings that stay whole are absent.
        mode: of the couplings.
    """

    couplings: Sequence[Coupling]
    keep: Mapping[str, Sequence[int]]
    mode: str

    def plan(self, size: tuple[int, int, int]) -> Plan:
        """Enough to make the structure again on the same network."""
        return {"mode": self.mode, "input_size": list(size), "keep": {n: list(k) for n, k in self.keep.items()}}


def affected(model: nn.Module, baseline: nn.Module, asked: Pruning, specs: Sequence[LayerSpec]) -> list[Coupling]:
    """Every coupling of ``model`` in the recipe's mode, those that stay whole too.

    Args:
        model: the network that enters the stage.
        baseline: whose couplings the recipe names.
        asked: by the recipe.
        specs: of the layer types that plugins bring.

    Raises:
        InvalidRecipe: if the network cannot be traced, or nothing of it would go.
    """
    size = models.input_size(baseline)
    try:
        every = known_couplings(model, size, asked.mode, specs)
    except UntraceableModel as error:  # a transform was here first
        raise InvalidRecipe(str(error)) from error
    if not _widths(every, baseline, asked):
        raise InvalidRecipe(f"no layer loses a channel at these widths, rounded to multiples of {asked.multiple}")
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
    """Which channels stay.

    Args:
        every: the couplings of the network that enters the stage; see :func:`affected`.
        baseline: whose couplings the recipe names.
        asked: by the recipe.
        orders: by coupling; None in a dry run, where only counts mean something.
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
    return widths(every, of_layers(asked.keep, offered(baseline, asked.mode)), asked.multiple)


def orders_of(pruner: Pruner, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, list[int]]:
    """What the pruner says of ``couplings``, checked.

    Raises:
        InvalidRecipe: if an order is missing, or is none of its coupling's channels.
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
    """The structure of ``plan`` on the network that entered the stage, with no data; changed in
    place.
    """
    channels, height, width = plan["input_size"]
    size = (int(channels), int(height), int(width))
    every = find_couplings(model, size, plan["mode"], specs, verify=False)
    return remove(model, plan["keep"], size, plan["mode"], specs, couplings=every).eval()

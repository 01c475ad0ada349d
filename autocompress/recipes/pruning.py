"""What a recipe asks of PRUNE: a pruner, and the share of each coupling's channels that stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from autocompress import models
from autocompress.channels.known import fixed_couplings
from autocompress.channels.widths import of_layers, widths
from autocompress.contract import Coupling, Params, Pruner, Space
from autocompress.contract.coupling import MODES
from autocompress.errors import InvalidRecipe
from autocompress.graph import UntraceableModel

SIXTEENTH = 1 / 16
"""Step and least value of ``prune.keep``."""
DEFAULT_KEEP = 10 / 16
OFFERED = ("inner", "group")
"""Modes that a search draws from."""
MULTIPLES = (1, 4, 8, 16)
DEFAULT_MULTIPLE = 8
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


def prunable(model: nn.Module, mode: str) -> list[Coupling]:
    """The couplings of a baseline that may lose channels in ``mode``: all but the stem's own.

    The baseline must never change.
    """
    stem = set(models.stem(model))
    return [
        coupling
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.prunable and not stem.issuperset(coupling.producers)
    ]


def kept_whole(model: nn.Module, mode: str = "group") -> dict[str, str]:
    """Why channels are left alone, by coupling. Those that may lose channels are not in it."""
    able = {coupling.name for coupling in prunable(model, mode)}
    return {
        coupling.name: "; ".join(coupling.reasons) or STEM_STAYS
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.name not in able
    }


def refusal_to_prune(model: nn.Module) -> str | None:
    """Why no channel of a baseline can be removed; None where some can."""
    try:
        if any(prunable(model, mode) for mode in OFFERED):
            return None
        told = sorted(kept_whole(model).values(), key=lambda reason: reason == STEM_STAYS)
    except UntraceableModel as error:
        return str(error)
    return f"none of its channels can be removed: {next(iter(told), 'it has no convolution and no linear layer')}"


def prune_space(
    space: Space, model: nn.Module, pruners: Sequence[Pruner], of_device: int = DEFAULT_MULTIPLE
) -> Pruning | None:
    """The pruner first, then widths; None where the recipe leaves all channels.

    Args:
        space: not scoped.
        model: the baseline, which never changes.
        pruners: those that apply, in the manager's order.
        of_device: the multiple of channels that suits the device.

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
    multiple = own.categorical("multiple", sorted({*MULTIPLES, of_device}), default=of_device, cheapest=1)
    every = prunable(model, mode)
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

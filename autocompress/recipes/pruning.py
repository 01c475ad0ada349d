"""Parameters of PRUNE: a pruner, and the share of channels to keep in each coupling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from autocompress import models
from autocompress.channels.known import fixed_couplings
from autocompress.channels.widths import nothing_to_remove, of_layers, widths
from autocompress.contract import Coupling, Method, Parameter, Params, Pruner, Space
from autocompress.contract.coupling import MODES
from autocompress.errors import InvalidRecipe
from autocompress.graph import UntraceableModel

SIXTEENTH = 1 / 16
"""Step and smallest value of ``prune.keep``."""
DEFAULT_KEEP = 10 / 16
OFFERED = ("inner", "group")
"""Modes that a search draws from."""
MULTIPLES = (1, 4, 8, 16)
DEFAULT_MULTIPLE = 8
STEM_STAYS = "the layer that reads the image keeps all channels"


@dataclass(frozen=True)
class Pruning:
    """Parameters of PRUNE in a recipe.

    Attributes:
        method: the pruner that orders the channels.
        params: its parameters.
        keep: the share of channels to keep, by coupling of the baseline.
        mode: mode of the couplings: "inner", "group" or "scatter".
        multiple: numbers of channels are rounded up to a multiple of it.
    """

    method: str
    params: Params
    keep: Mapping[str, float]
    mode: str
    multiple: int

    def record(self) -> dict[str, Any]:
        """The parameters as JSON, for content keys."""
        return asdict(self)


def prunable(model: nn.Module, mode: str) -> list[Coupling]:
    """The couplings of a baseline that can lose channels in ``mode``, without that of the stem.

    The baseline must not be changed later, because its couplings are cached by identity.
    """
    stem = set(models.stem(model))
    return [
        coupling
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.prunable and not stem.issuperset(coupling.producers)
    ]


def kept_whole(model: nn.Module, mode: str = "group") -> dict[str, str]:
    """Reasons, by coupling, why no channel can be removed. Other couplings are not in it."""
    able = {coupling.name for coupling in prunable(model, mode)}
    return {
        coupling.name: "; ".join(coupling.reasons) or STEM_STAYS
        for coupling in fixed_couplings(model, models.input_size(model), mode)
        if coupling.name not in able
    }


def refusal_to_prune(model: nn.Module) -> str | None:
    """The reason why no channel of a baseline can be removed; None where some can."""
    try:
        if any(prunable(model, mode) for mode in OFFERED):
            return None
        first = set(models.stem(model))
        told = sorted(kept_whole(model).items(), key=lambda item: (item[1] == STEM_STAYS, item[0] in first))
    except UntraceableModel as error:
        return str(error)
    if not told:
        return "none of its channels can be removed: it has no convolution and no linear layer"
    name, reason = told[0]
    return f"none of its channels can be removed, for example those of '{name}': {reason}"


def offered(methods: Sequence[Method], parameters: Mapping[str, Parameter]) -> list[str]:
    """Names of the methods that recipes may use.

    A pruner that acts only where a job names it is left out, unless it is named.

    Args:
        methods: the methods that apply.
        parameters: all parameters of the space.
    """
    choice = parameters.get("prune.method")
    pruners = () if choice is None else choice.choices
    return [method.name for method in methods if not isinstance(method, Pruner) or method.name in pruners]


def prune_space(
    space: Space, model: nn.Module, pruners: Sequence[Pruner], of_device: int = DEFAULT_MULTIPLE
) -> Pruning | None:
    """Asks for the pruner, then for widths; None where the recipe keeps all channels.

    Args:
        space: the search space of the whole recipe, not a scope of it.
        model: the baseline. It must not be changed later.
        pruners: the pruners that apply, in the order of the manager.
        of_device: the channel multiple of the device.

    Raises:
        InvalidRecipe: if nothing is removed because of rounding to the multiple.
    """
    own = space.scope("prune")
    searched = [pruner for pruner in pruners if pruner.searched] or list(pruners)
    others = [pruner.name for pruner in pruners if pruner not in searched]
    names = [pruner.name for pruner in searched]
    name = own.categorical("method", ["none", *names], default=names[0], named=others, structural=False)
    if name == "none":
        return None
    modes = _modes(model)
    mode = own.categorical(
        "mode", modes, default=modes[0], cheapest=modes[-1], named=[mode for mode in MODES if mode not in modes]
    )
    multiple = own.categorical("multiple", sorted({*MULTIPLES, of_device}), default=of_device, cheapest=1)
    every = prunable(model, mode)
    groups = models.fixed_groups(model, space.granularity)
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
    if not every:
        raise InvalidRecipe(f"no channel can be removed in prune.mode {mode}{_example(model, mode)}")
    if all(share == 1 for share in keep.values()):
        return None
    if not widths(every, of_layers(keep, every), multiple):
        raise InvalidRecipe(nothing_to_remove(every, of_layers(keep, every), multiple))
    return Pruning(name, params, keep, mode, multiple)


def _modes(model: nn.Module) -> tuple[str, ...]:
    """The modes of ``OFFERED`` in which channels can be removed; all if there are none.

    A coupling of mode "inner" is one of "group" too, so only the first modes can be without any.
    """
    first = next((place for place, mode in enumerate(OFFERED) if prunable(model, mode)), 0)
    return OFFERED[first:]


def _example(model: nn.Module, mode: str) -> str:
    name, reason = next(iter(kept_whole(model, mode).items()), ("", ""))
    return f", for example none of '{name}': {reason}" if name else ""

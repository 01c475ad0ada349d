"""Which channels of a network may be removed in a mode, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autocompress.channels.attention import UNREADABLE, head_parts, is_attention
from autocompress.channels.dependencies import Found, Whole, find, pruners_of
from autocompress.channels.slicing import STANDARDISING, is_depthwise
from autocompress.channels.tied import tied
from autocompress.channels.verifying import verified
from autocompress.contract import LayerSpec
from autocompress.contract.coupling import MODES, Coupling, Part
from autocompress.graph import LayerFacts, facts
from autocompress.quantization.leaves import leaf_types

Judged = tuple[list[Coupling], Mapping[str, LayerFacts]]
"""Every coupling of a network before a mode is chosen and anything is measured, and facts about its
layers.
"""


def couplings(
    model: nn.Module,
    input_size: tuple[int, int, int],
    mode: str = "inner",
    specs: Iterable[LayerSpec] = (),
    *,
    verify: bool = True,
    known: Judged | None = None,
) -> list[Coupling]:
    """Every set of channels that can only go together, in network order.

    With reasons where none may go.

    Modes: ``inner`` offers channels private to a block; ``group`` also those of a residual stream
    or a concat, one shared keep-set for all that write it, where switching off equals removing;
    ``scatter`` (the official code) also slices the last convolution of each block, whose result is
    put back into a stream of full width.

    What the graph claims is not trusted: each coupling on offer is tried on a copy with random
    weights, in double precision, and is refused where the sliced network computes something else
    (:mod:`.verifying`).

    Args:
        model: a float model, also with plugins' layers in it; it is not changed.
        input_size: (channels, height, width).
        mode: one of ``MODES``.
        specs: of the layer types that plugins bring (``manager().layer_specs()`` or the like).
        verify: False skips the measurement, and leaves ``safe`` True: for a model that has been
            measured before.
        known: what :func:`judged` says of this network, where it has been asked already.

    Raises:
        UntraceableModel: if the network cannot be traced, or no dependency graph can be built.
        ValueError: for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    specs = list(specs)
    every, layers = known or judged(model, input_size, specs)
    if mode == "scatter":
        every = _scattered(model, every, layers)
    if mode != "group":
        every = [only_inner(coupling, mode) for coupling in every]
    return verified(model, every, input_size, pruners_of(specs)) if verify else every


def judged(model: nn.Module, input_size: tuple[int, int, int], specs: Iterable[LayerSpec] = ()) -> Judged:
    """What all modes share, and most of the work on tangled networks.

    Arguments and errors as in :func:`couplings`.
    """
    specs = list(specs)
    layers = facts(model, input_size, leaf_types(specs)).layers
    pruners = pruners_of(specs)
    found = find(model, input_size, pruners)
    every = [_judged(model, group, layers, pruners) for group in found]
    return _without_partial(every, {layer for group in found for layer in group.partial}), layers


def _judged(
    model: nn.Module, found: Found, layers: Mapping[str, LayerFacts], pruners: Mapping[type[nn.Module], Any]
) -> Coupling:
    """What can be said without measuring."""
    reasons = []
    parts, heads = found.parts, False
    if is_attention(found.operators) and not found.is_output:
        by_head = head_parts(model, parts)
        heads = by_head is not None
        parts = by_head or parts
        if not heads:
            reasons.append(UNREADABLE)
    channels = len(parts[0].index)
    if found.is_output:
        reasons.append("its channels reach the network's output")
    if found.reads_image:
        reasons.append("its channels are tied to the input image")
    if found.others:
        reasons.append(f"{', '.join(sorted(set(found.others)))} mixes its channels")
    reasons += _sharing(model, parts)
    modules = dict(model.named_modules())
    readers = [modules[part.layer] for part in parts if part.side == "in"]
    if any(isinstance(reader, STANDARDISING) for reader in readers):
        reasons.append("a convolution that reads it standardises its weights over all inputs")
    whole = {type(modules[p.layer]) for p in parts if p.layer in modules and _is_whole(modules[p.layer], pruners)}
    if whole:
        reasons.append(f"{', '.join(sorted(kind.__name__ for kind in whole))} can lose no channels")
    brought = [part.layer for part in parts if part.side == "out" and _has_units(modules.get(part.layer), pruners)]
    if len(brought) > 1:
        reasons.append(f"{' and '.join(brought)} tie its channels, each in an order of its own")
    if found.contradictory:
        reasons.append(f"the dependency graph does not understand how {found.contradictory[0]} is reached")
    blocks, uneven = _blocks(modules, parts, channels)
    reasons += [] if found.contradictory else uneven
    if not reasons and max((len(block) for block in blocks), default=0) < 2:
        reasons.append("none of its channels can go: each is tied to all others, or alone in its group")
    gates = [part.layer for part in parts if part.side == "out" and part.layer in layers and layers[part.layer].in_gate]
    writers = [part.layer for part in parts if part.side == "out"]
    return Coupling(
        name=found.root,
        channels=channels,
        parts=tuple(parts),
        norm_of=tuple(found.norm_of),
        masks=((parts[0].layer, parts[0].index),) if heads else tuple(found.masks),
        blocks=blocks,
        norms_seen=tuple(found.norms),
        inner=not found.concatenated and len([name for name in writers if name not in gates]) <= 1,
        stem=any(_reads_image(layers, name) for name in writers),
        heads=heads,
        reasons=tuple(reasons),
    )


def _sharing(model: nn.Module, parts: Sequence[Part]) -> list[str]:
    """A sentence where a layer that would lose channels holds a weight that another one holds, too:
    each would have a weight of its own afterwards.
    """
    layers = {part.layer for part in parts}
    for path, other in tied(model).items():
        # A plugin's layer may hold layers of its own, and a part may be a bare parameter.
        if any(path == layer or path.startswith(f"{layer}.") for layer in layers):
            return [f"{path} and {other} are one weight, which both layers must keep"]
    return []


def _is_whole(layer: nn.Module, pruners: Mapping[type[nn.Module], Any]) -> bool:
    return isinstance(pruners.get(type(layer)), Whole)


def _has_units(layer: nn.Module | None, pruners: Mapping[type[nn.Module], Any]) -> bool:
    """Whether a plugin's layer ties its outputs to each other; others take any keep-set."""
    return layer is not None and hasattr(pruners.get(type(layer)), "units")


def _reads_image(layers: Mapping[str, LayerFacts], name: str) -> bool:
    return any(layer.is_input for path, layer in layers.items() if path == name or path.startswith(f"{name}."))


def _blocks(
    modules: Mapping[str, nn.Module], parts: Sequence[Part], channels: int
) -> tuple[tuple[tuple[int, ...], ...], list[str]]:
    """The finest partition that grouped convolutions ask for, and that keeps ghost modules' widths
    apart.
    """
    keys: list[list[int]] = [[] for _ in range(channels)]
    for part in parts:
        layer = modules.get(part.layer)
        groups = int(getattr(layer, "groups", 1)) if not is_depthwise(layer or nn.Identity()) else 1
        # how many channels stay must fix how many indices stay, whichever they are
        sizes = [len(indices) for indices in part.index]
        for channel, indices in enumerate(part.index):
            within = {index * groups // part.size for index in indices} if part.size else set()
            if len(within) > 1:
                return ((*range(channels),),), [f"{part.layer} has its channels in several groups at once"]
            keys[channel] += [sizes[channel], *(within or {-1})]
    blocks: dict[tuple[int, ...], list[int]] = {}
    for channel, key in enumerate(keys):
        blocks.setdefault(tuple(key), []).append(channel)
    return tuple(tuple(block) for block in blocks.values()), []


def _without_partial(every: list[Coupling], partial: set[str]) -> list[Coupling]:
    """Refuses couplings in which a writer takes part with some of its outputs only."""
    result = []
    for coupling in every:
        torn = [name for name in coupling.producers if name in partial]
        reason = f"only some outputs of {', '.join(torn)} are tied to it"
        result.append(replace(coupling, reasons=(*coupling.reasons, reason)) if torn else coupling)
    return result


def only_inner(coupling: Coupling, mode: str = "inner") -> Coupling:
    """The coupling as ``mode`` has it: with a reason against it where others share its channels."""
    if coupling.inner or coupling.scatter or coupling.reasons:
        return coupling
    others = [name for name in coupling.producers if name != coupling.name]
    with_whom = f"with {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else "through a concat"
    return replace(coupling, reasons=(f"shared {with_whom}: mode {mode!r} removes only private channels",))


def _scattered(model: nn.Module, every: list[Coupling], layers: Mapping[str, LayerFacts]) -> list[Coupling]:
    """Puts, in place of each shared stream, the last convolutions of the blocks that write it.

    The official code skips stem and shortcut; here a block's last convolution is one that alone
    reads private channels (gates aside), as a shortcut never does.
    """
    modules = dict(model.named_modules())
    private: set[str] = set()
    for coupling in every:
        readers = [name for name in coupling.consumers if not (name in layers and layers[name].in_gate)]
        private.update(readers if coupling.inner and len(readers) == 1 else ())
    result: list[Coupling] = []
    done: set[str] = set()
    stems = {_parent(name) for name, layer in layers.items() if layer.is_input} - {""}
    for coupling in every:
        norm_of = dict(coupling.norm_of)
        last = [
            name
            for name in coupling.producers
            if not coupling.inner
            and name in private
            and name in norm_of
            and name not in done  # a stream that the graph tears apart has its writers in two couplings
            and isinstance(modules[norm_of[name]], nn.BatchNorm2d)
            and isinstance(conv := modules[name], nn.Conv2d)
            and conv.groups == 1
            and not layers[name].is_input
            and _parent(name) not in stems  # a stem of several convolutions, side by side
        ]
        done.update(last)
        result += [_scatter(model, modules, name, norm_of[name]) for name in last]
        if not last and coupling.name not in done:
            result.append(coupling)
    return result


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _scatter(model: nn.Module, modules: Mapping[str, nn.Module], name: str, norm: str) -> Coupling:
    width = int(modules[name].out_channels)  # type: ignore[arg-type]
    index = tuple((i,) for i in range(width))
    parts = (Part(name, "out", index, width), Part(norm, "both", index, width))
    return Coupling(
        name=name,
        channels=width,
        parts=parts,
        norm_of=((name, norm),),
        masks=((norm, index),),
        blocks=(tuple(range(width)),),
        norms_seen=(norm,),
        inner=False,
        scatter=True,
        reasons=tuple(_sharing(model, parts)),
    )

"""Finds the channels of a network that can be removed together, and reasons against the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autocompress.channels.attention import all_heads, is_attention, unreadable
from autocompress.channels.dependencies import Found, Whole, find, pruners_of
from autocompress.channels.slicing import STANDARDISING, is_depthwise
from autocompress.channels.tied import tied
from autocompress.channels.verifying import verified
from autocompress.contract import LayerSpec
from autocompress.contract.coupling import MODES, Coupling, Index, Part
from autocompress.graph import LayerFacts, facts
from autocompress.quantization.leaves import leaf_types

Judged = tuple[list[Coupling], Mapping[str, LayerFacts]]
"""All couplings of a network before they are verified, for any mode, and facts about its layers."""


def couplings(
    model: nn.Module,
    input_size: tuple[int, int, int],
    mode: str = "inner",
    specs: Iterable[LayerSpec] = (),
    *,
    verify: bool = True,
    known: Judged | None = None,
) -> list[Coupling]:
    """Returns all couplings of a network, in network order.

    A coupling that cannot lose channels has the reasons in ``reasons``.

    Modes:

    - ``inner``: channels that are private to a block.
    - ``group``: also the channels of a residual stream or a concat. All layers that write them keep
      the same channels. A coupling is used only if setting a channel to zero has the same effect
      as removing it.
    - ``scatter``, as in SCOP's official code: also the last convolution of each block. Its output
      is scattered back to the full width of the residual stream.

    The dependency graph can be wrong. So channels of each coupling are removed from a copy of the
    network with random weights in double precision. If the outputs are wrong, the coupling is
    refused (:mod:`.verifying`).

    Args:
        model: a float model, maybe with layers of plugins; it is not changed.
        input_size: (channels, height, width).
        mode: one of ``MODES``.
        specs: descriptions of the layer types of plugins, for example ``manager().layer_specs()``.
        verify: False skips this check and leaves ``safe`` True, for a network that was checked
            before.
        known: the result of :func:`judged` for this network, if it is known.

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
    """Does the part of :func:`couplings` that is the same for all modes.

    On complicated networks, this is most of the work. Arguments and errors are those of
    :func:`couplings`.
    """
    specs = list(specs)
    layers = facts(model, input_size, leaf_types(specs)).layers
    pruners = pruners_of(specs)
    heads = all_heads(model)
    found = [_by_head(group, heads) for group in find(model, input_size, pruners)]
    second = {part.layer for parts in heads.values() for part in parts[1:] if part.side == "out"}
    found = [group for group in found if group.root not in second]  # keys and values go with the queries
    every = [_judged(model, group, layers, pruners) for group in found]
    return _without_partial(every, {layer for group in found for layer in group.partial}), layers


def _by_head(found: Found, heads: Mapping[str, list[Part]]) -> Found:
    """Returns the group of an attention block with a channel for each head.

    The graph's own indices for products of activations may be wrong, so they are not used. A group
    whose heads are not known is returned unchanged.
    """
    parts = heads.get(found.root)
    if parts is None:
        return found
    norms = [part.layer for part in parts if part.side == "both"]
    return Found(
        parts[0].layer,
        parts,
        len(parts[0].index),
        norm_of=list(zip([part.layer for part in parts if part.side == "out"], norms, strict=False)),
        norms=norms,
        heads=True,
    )


def _judged(
    model: nn.Module, found: Found, layers: Mapping[str, LayerFacts], pruners: Mapping[type[nn.Module], Any]
) -> Coupling:
    """Returns the coupling of a group, with the reasons that are known without the check."""
    reasons = []
    parts, heads = found.parts, found.heads
    if is_attention(found.operators) and not found.is_output:
        reasons.append(unreadable(model, found.root))
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
        reasons.append(f"{' and '.join(brought)} tie its channels in different orders")
    if found.contradictory:
        reasons.append(f"the dependency graph has wrong indices for {found.contradictory[0]}")
    blocks, uneven = _blocks(modules, parts, channels)
    reasons += [] if found.contradictory else uneven
    if not reasons and max((len(block) for block in blocks), default=0) < 2:
        reasons.append("no channel can be removed: each is tied to all others, or is the only one of its group")
    gates = [part.layer for part in parts if part.side == "out" and part.layer in layers and layers[part.layer].in_gate]
    writers = [part.layer for part in parts if part.side == "out"]
    return Coupling(
        name=found.root,
        channels=channels,
        parts=tuple(parts),
        norm_of=tuple(found.norm_of),
        masks=_masks_of_heads(found) if heads else tuple(found.masks),
        blocks=blocks,
        norms_seen=tuple(found.norms),
        inner=heads or (not found.concatenated and len([name for name in writers if name not in gates]) <= 1),
        stem=any(_reads_image(layers, name) for name in writers),
        heads=heads,
        reasons=tuple(reasons),
    )


def _masks_of_heads(found: Found) -> tuple[tuple[str, Index], ...]:
    """Returns the masks of a coupling of heads: norms behind writers, or writers without a norm.

    Setting queries, keys and values to zero there switches a head off, because a head whose values
    are zero has the output zero.
    """
    behind = dict(found.norm_of)
    at = {part.layer: part.index for part in found.parts}
    return tuple((behind.get(part.layer, part.layer), at[part.layer]) for part in found.parts if part.side == "out")


def _sharing(model: nn.Module, parts: Sequence[Part]) -> list[str]:
    """Returns a reason if a layer shares its weight with another layer.

    Removing channels of one of them would separate the two weights.
    """
    layers = {part.layer for part in parts}
    for path, other in tied(model).items():
        # A layer of a plugin may contain layers, and a part may be a bare parameter.
        if any(path == layer or path.startswith(f"{layer}.") for layer in layers):
            return [f"{path} and {other} are the same weight, which both layers need"]
    return []


def _is_whole(layer: nn.Module, pruners: Mapping[type[nn.Module], Any]) -> bool:
    return isinstance(pruners.get(type(layer)), Whole)


def _has_units(layer: nn.Module | None, pruners: Mapping[type[nn.Module], Any]) -> bool:
    """Whether a layer of a plugin ties its outputs to each other.

    A layer that does not do so can keep any of its channels.
    """
    return layer is not None and hasattr(pruners.get(type(layer)), "units")


def _reads_image(layers: Mapping[str, LayerFacts], name: str) -> bool:
    return any(layer.is_input for path, layer in layers.items() if path == name or path.startswith(f"{name}."))


def _blocks(
    modules: Mapping[str, nn.Module], parts: Sequence[Part], channels: int
) -> tuple[tuple[tuple[int, ...], ...], list[str]]:
    """Divides the channels into blocks. The same share of each block is removed.

    Grouped convolutions and the widths of ghost modules require blocks, and these are the smallest
    possible ones.

    Returns:
        The blocks, and a list with the reason if such blocks do not exist.
    """
    keys: list[list[int]] = [[] for _ in range(channels)]
    for part in parts:
        layer = modules.get(part.layer)
        groups = int(getattr(layer, "groups", 1)) if not is_depthwise(layer or nn.Identity()) else 1
        # the number of channels to keep must determine the number of indices to keep
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
    """Adds a reason to couplings that contain only some of the outputs of a layer."""
    result = []
    for coupling in every:
        torn = [name for name in coupling.producers if name in partial]
        reason = f"only some outputs of {', '.join(torn)} belong to it"
        result.append(replace(coupling, reasons=(*coupling.reasons, reason)) if torn else coupling)
    return result


def only_inner(coupling: Coupling, mode: str = "inner") -> Coupling:
    """Returns the coupling for ``mode``, which may remove only the private channels of a block.

    If several layers share its channels, this is added to its reasons.
    """
    if coupling.inner or coupling.scatter or coupling.reasons:
        return coupling
    others = [name for name in coupling.producers if name != coupling.name]
    with_whom = f"with {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else "through a concat"
    return replace(coupling, reasons=(f"shared {with_whom}: mode {mode!r} removes only private channels",))


def _scattered(model: nn.Module, every: list[Coupling], layers: Mapping[str, LayerFacts]) -> list[Coupling]:
    """Replaces each shared stream by the last convolutions of the blocks that write it.

    As in the official code, stems and shortcuts are left out. A convolution is the last one of a
    block if it is the only reader of private channels, apart from gates. This is never the case for
    a convolution in a shortcut.
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
            and name not in done  # where the graph splits a stream, its writers are in two couplings
            and isinstance(modules[norm_of[name]], nn.BatchNorm2d)
            and isinstance(conv := modules[name], nn.Conv2d)
            and conv.groups == 1
            and not layers[name].is_input
            and _parent(name) not in stems  # a stem of several parallel convolutions
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

"""The number of channels to keep in each coupling, from shares for couplings of the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autocompress.contract import Coupling
from autocompress.contract.scores import origin_of

Shares = Mapping[str, float]
"""Coupling of the baseline, or a layer that writes one -> share of channels to keep, in (0, 1]."""


def of_layers(shares: Shares, baseline: Sequence[Coupling]) -> dict[str, float]:
    """Gives each layer that writes a coupling the share of that coupling.

    Other layers are left out.
    """
    return {
        layer: shares[coupling.name] for coupling in baseline if coupling.name in shares for layer in coupling.producers
    }


def share_of(coupling: Coupling, layers: Shares) -> float:
    """The largest share of the layers that write ``coupling``; 1 if none of them has a share.

    Where a transform joined layers with different shares, the largest share decides.

    Args:
        coupling: coupling of any network made from the baseline.
        layers: share of channels to keep by layer of the baseline, see :func:`of_layers`.
    """
    origins = (origin_of(writer, layers) for writer in coupling.producers)
    return max((layers[origin] for origin in origins if origin is not None), default=1.0)


def widths(every: Sequence[Coupling], layers: Shares, multiple: int) -> dict[str, list[int]]:
    """The number of channels to keep in each block of channels (``Coupling.blocks``).

    Couplings that lose none are left out.

    Args:
        every: the couplings of the network.
        layers: share of channels to keep by layer of the baseline.
        multiple: the channel multiple; see ``Coupling.kept``.
    """
    found: dict[str, list[int]] = {}
    for coupling in every:
        share = share_of(coupling, layers) if coupling.prunable else 1.0
        counts = coupling.kept(1.0 - share, multiple) if share < 1 else []
        if share < 1 and sum(counts) < coupling.channels:
            found[coupling.name] = counts
    return found


def nothing_to_remove(every: Sequence[Coupling], layers: Shares, multiple: int) -> str:
    """The reason, with an example, why :func:`widths` of the same arguments is empty."""
    told = f"no layer loses a channel at these widths, rounded to multiples of {multiple}"
    for coupling in every:
        if coupling.prunable and (share := share_of(coupling, layers)) < 1:
            sizes = sorted({len(block) for block in coupling.blocks})
            parts = f" in groups of {' and '.join(map(str, sizes))}" if len(coupling.blocks) > 1 else ""
            return f"{told}: '{coupling.name}' keeps its {coupling.channels} channels{parts} at a share of {share:g}"
    return told


def lost_inputs(couplings: Iterable[Coupling], keep: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The input channels that each layer loses, over all couplings that it reads, ascending.

    Couplings with ``scatter`` lose none, because their output keeps its width.
    """
    lost: dict[str, set[int]] = {}
    for coupling in couplings:
        if coupling.name not in keep or coupling.scatter:
            continue
        gone = set(range(coupling.channels)) - set(keep[coupling.name])
        for layer, index in coupling.consumers.items():
            lost.setdefault(layer, set()).update(place for channel in gone for place in index[channel])
    return {layer: sorted(inputs) for layer, inputs in lost.items() if inputs}


def kept_outputs(couplings: Iterable[Coupling], keep: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The outputs that each writer keeps, ascending; only for writers that lose some.

    Writers of couplings with ``scatter`` are left out.
    """
    gone: dict[str, set[int]] = {}
    sizes: dict[str, int] = {}
    for coupling in couplings:
        if coupling.name not in keep or coupling.scatter:
            continue
        dropped = sorted(set(range(coupling.channels)) - set(keep[coupling.name]))
        for part in coupling.parts:
            if part.side in ("out", "both"):
                gone.setdefault(part.layer, set()).update(part.indices(dropped))
                sizes[part.layer] = part.size
    return {layer: [i for i in range(sizes[layer]) if i not in lost] for layer, lost in gone.items() if lost}

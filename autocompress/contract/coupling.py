"""A coupling: channels that can only be removed together, and how many stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Index = tuple[tuple[int, ...], ...]
"""For each channel of a coupling, the indices of the layer's own dimension that it stands for.

Usually one; none where the layer does not have the channel; many for a flattened map, an attention
head, or a ghost module's ghosts.
"""
MODES = ("inner", "group", "scatter")
_ROUNDING = 1e-9
"""0.29 * 100 is a little less than 29 in floating point."""


def counts(width: int, rate: float, multiple: int = 1) -> int:
    """How many of ``width`` channels stay.

    floor(rate * width) are dropped (SCOP, Tang et al., NeurIPS 2020), or fewer, so that those that
    stay are a multiple of ``multiple``.

    Args:
        width: M, at least 1.
        rate: in [0, 1).
        multiple: 1, 4, 8, 16: what the runtime likes. A rate that drops nothing keeps ``width``,
            multiple or not.

    Returns:
        At least 1, at most ``width``; never fewer than the rate alone would keep.

    Raises:
        ValueError: for a rate outside [0, 1), a width or a multiple below 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a rate must lie in [0, 1), not {rate}")
    if width < 1 or multiple < 1:
        raise ValueError(f"width and multiple must be at least 1, not {width} and {multiple}")
    kept = max(1, width - math.floor(rate * width + _ROUNDING))
    return min(width, math.ceil(kept / multiple) * multiple)


@dataclass(frozen=True)
class Part:
    """One side of one layer that loses channels with a coupling.

    Attributes:
        layer: module path, or path of a bare parameter.
        side: "out" (a layer that writes the channels), "in" (one that reads them), "both"
            (depthwise convolution, norm: channels go through one to one), "parameter" (a bare
            parameter, for example a layer scale).
        index: the layer's indices for each channel of the coupling.
        size: of the layer's whole dimension.
        dim: of a bare parameter, the dimension that the channels are on; otherwise 0.
    """

    layer: str
    side: str
    index: Index
    size: int
    dim: int = 0

    def indices(self, channels: Sequence[int]) -> list[int]:
        """The layer's indices for these channels of the coupling, ascending."""
        return sorted({position for channel in channels for position in self.index[channel]})


@dataclass(frozen=True)
class Coupling:
    """Channels that must live or die together.

    Everything below counts in the coupling's own channels 0..channels-1; each layer's
    ``Part.index`` translates.

    Attributes:
        name: module path of the first layer, in network order, that writes the channels.
        channels: how many there are; heads where ``heads``, intrinsic maps where a ghost module
            writes them.
        parts: every layer that changes when a channel goes.
        norm_of: for a writing layer, the batch normalisation directly behind it, which alone reads
            it.
        masks: layers whose output, set to zero, switches a channel off: norms, and writers without
            one. Indices as in ``Part.index``.
        blocks: partition of the channels; from each block the same share goes (a grouped
            convolution keeps equal counts per group). One block where nothing asks for more.
        inner: one writer, with depthwise convolutions behind it and gates beside it; no addition,
            no concat.
        safe: measured: switched off behind the norm, the network computes the same as without the
            channel.
        stem: a writer reads the image.
        heads: the channels are attention heads.
        scatter: the writer and its norm shrink, the result is put back into the full width behind
            the norm.
        reasons: why nothing may be removed here (in this mode); empty where it may.
    """

    name: str
    channels: int
    parts: tuple[Part, ...]
    norm_of: tuple[tuple[str, str], ...] = ()
    masks: tuple[tuple[str, Index], ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    norms_seen: tuple[str, ...] = ()
    inner: bool = True
    safe: bool = True
    stem: bool = False
    heads: bool = False
    scatter: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def prunable(self) -> bool:
        """Channels may be removed here."""
        return not self.reasons

    @cached_property
    def producers(self) -> dict[str, Index]:
        """Layers whose output channels these are, with their indices, in network order."""
        return {part.layer: part.index for part in self.parts if part.side == "out"}

    @cached_property
    def norms(self) -> dict[str, Index]:
        """Batch normalisations that the channels pass, with their indices."""
        return {part.layer: part.index for part in self.parts if part.layer in self.norms_seen}

    @cached_property
    def consumers(self) -> dict[str, Index]:
        """Layers that mix the channels, with the indices of their inputs."""
        return {part.layer: part.index for part in self.parts if part.side == "in"}

    def kept(self, rate: float, multiple: int = 1) -> list[int]:
        """How many channels of each block stay; in one block of plain channels :func:`counts`.

        ``multiple`` is asked of what the writers then write. With n blocks of a size, and w outputs
        a channel (an attention head, an intrinsic map with its ghosts), each block rounds to
        ``multiple / gcd(multiple, n w)``.
        """
        alike: dict[int, list[int]] = {}
        for block in self.blocks:
            alike.setdefault(len(block), []).extend(block)
        steps = {
            size: multiple // math.gcd(multiple, len(channels) // size * self._outputs_each(channels))
            for size, channels in alike.items()
        }
        return [counts(len(block), rate, steps[len(block)]) for block in self.blocks]

    def _outputs_each(self, channels: Sequence[int]) -> int:
        """The greatest number that divides what any of these channels is of a writer's outputs."""
        return math.gcd(*(len(index[channel]) for index in self.producers.values() for channel in channels)) or 1

    def ranked(self, scores: Sequence[float]) -> list[int]:
        """The order of removal by score: the lowest first, and of equal scores the last channel.

        Args:
            scores: one finite number a channel.

        Returns:
            A permutation of the channels, least needed first. Blocks take turns, as
            :meth:`check_order` asks.

        Raises:
            ValueError: if there is not one finite score a channel.
        """
        if len(scores) != self.channels or not all(math.isfinite(score) for score in scores):
            raise ValueError(f"{self.name} needs {self.channels} finite scores")
        return self.interleaved(
            [sorted(block, key=lambda channel: (float(scores[channel]), -channel)) for block in self.blocks]
        )

    @staticmethod
    def interleaved(blocks: Sequence[Sequence[int]]) -> list[int]:
        """One order from an order of each block: blocks take turns in proportion to their sizes."""

        def places() -> Iterator[tuple[float, int, int]]:
            for number, block in enumerate(blocks):
                yield from (((place + 1) / len(block), number, channel) for place, channel in enumerate(block))

        return [channel for _, _, channel in sorted(places(), key=lambda place: place[:2])]

    def left_by(self, order: Sequence[int], counts: Sequence[int]) -> list[int]:
        """The channels that stay, ascending, where the others went in ``order``.

        Args:
            order: all channels, least needed first.
            counts: how many stay in each block; see :meth:`kept`.
        """
        place = {channel: position for position, channel in enumerate(order)}
        keep: list[int] = []
        for block, count in zip(self.blocks, counts, strict=True):
            keep += sorted(block, key=lambda channel: place[channel])[len(block) - count :]
        return sorted(keep)

    def check_order(self, order: Sequence[int]) -> None:
        """Refuses what is not an order of this coupling's channels.

        Raises:
            ValueError: if it is not a permutation of the channels, or a prefix takes from one block
                while another of the same size still waits for its turn.
        """
        if sorted(order) != list(range(self.channels)):
            raise ValueError(f"{self.name}: an order is a permutation of 0..{self.channels - 1}")
        block_of = {channel: number for number, block in enumerate(self.blocks) for channel in block}
        taken = [0] * len(self.blocks)
        for channel in order:
            own = block_of[channel]
            behind = min(n for n, block in zip(taken, self.blocks, strict=True) if len(block) == len(self.blocks[own]))
            if taken[own] > behind:
                raise ValueError(f"{self.name}: blocks of one size must lose their channels in turns")
            taken[own] += 1

    def check_keep(self, keep: Sequence[int]) -> None:
        """Refuses a keep-set that this coupling cannot have.

        Raises:
            ValueError: if it is empty, not ascending, out of range, or drops a whole block or
                unequal shares of blocks of one size.
        """
        if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= self.channels:
            raise ValueError(f"{self.name}: a keep-set is ascending, not empty and within 0..{self.channels - 1}")
        chosen = set(keep)
        sizes: dict[int, set[int]] = {}
        for block in self.blocks:
            sizes.setdefault(len(block), set()).add(sum(channel in chosen for channel in block))
        if any(len(left) > 1 or 0 in left for left in sizes.values()):
            raise ValueError(f"{self.name}: each of its {len(self.blocks)} blocks must keep equally many channels")

"""Coupling: channels that can only be removed together, and the number of them to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Index = tuple[tuple[int, ...], ...]
"""For each channel of a coupling, its indices in a dimension of the layer.

Usually there is one index. The tuple is empty if the layer does not have the channel. It has
several indices for a flattened map, an attention head, or the ghosts of a ghost module.
"""
MODES = ("inner", "group", "scatter")
_ROUNDING = 1e-9
"""Added before rounding down: 0.29 * 100 is a little less than 29 in floating point."""


def counts(width: int, rate: float, multiple: int = 1) -> int:
    """The number of ``width`` channels to keep.

    floor(rate * width) channels are removed (SCOP, Tang et al., NeurIPS 2020), or fewer, so that
    the result is a multiple of ``multiple``.

    Args:
        width: M, at least 1.
        rate: in [0, 1).
        multiple: 1, 4, 8 or 16: the channel multiple of the runtime. A rate that removes nothing
            keeps ``width``, even if that is not a multiple.

    Returns:
        At least 1, at most ``width``, and at least as many as the rate alone would keep.

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
        side: "out" (the layer writes the channels), "in" (it reads them), "both" (depthwise
            convolution or norm: each output channel depends on one input channel), "parameter" (a
            bare parameter, for example a layer scale).
        index: the indices in the layer for each channel of the coupling.
        size: size of the whole dimension.
        dim: dimension of the channels in a bare parameter; otherwise 0.
    """

    layer: str
    side: str
    index: Index
    size: int
    dim: int = 0

    def indices(self, channels: Sequence[int]) -> list[int]:
        """The indices in the layer for these channels of the coupling, ascending."""
        return sorted({position for channel in channels for position in self.index[channel]})


@dataclass(frozen=True)
class Coupling:
    """Channels that must be kept or removed together.

    All indices below number the channels of the coupling, 0..channels-1. ``Part.index`` maps them
    to indices of each layer.

    Attributes:
        name: module path of the first layer, in network order, that writes the channels.
        channels: number of channels, of heads where ``heads``, or of intrinsic maps where a ghost
            module writes them.
        parts: every layer that changes when a channel is removed.
        norm_of: for a writing layer, the batch normalisation behind it that is its only reader.
        masks: layers that switch a channel off when their output for it is set to zero: norms, and
            writers without a norm. Indices as in ``Part.index``.
        blocks: partition of the channels. The same share is removed from each block, because a
            grouped convolution needs equal counts per group. Usually one block.
        inner: one writer, with only depthwise convolutions and gates before the readers; no
            addition, no concat.
        safe: measured: switching a channel off behind the norm has the same effect as removing it.
        stem: a writer reads the image.
        heads: the channels are attention heads.
        scatter: writer and norm lose channels, and the output is scattered back to the full width
            behind the norm.
        reasons: why no channel can be removed here in this mode; empty where channels can.
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
        """Whether channels can be removed here."""
        return not self.reasons

    @cached_property
    def producers(self) -> dict[str, Index]:
        """The layers that write the channels, with their indices, in network order."""
        return {part.layer: part.index for part in self.parts if part.side == "out"}

    @cached_property
    def norms(self) -> dict[str, Index]:
        """The batch normalisations of the channels, with their indices."""
        return {part.layer: part.index for part in self.parts if part.layer in self.norms_seen}

    @cached_property
    def consumers(self) -> dict[str, Index]:
        """The layers that read and mix the channels, with the indices of their inputs."""
        return {part.layer: part.index for part in self.parts if part.side == "in"}

    def kept(self, rate: float, multiple: int = 1) -> list[int]:
        """The number of channels to keep in each block; :func:`counts` for one plain block.

        The outputs of the writers must be a multiple of ``multiple``. With n blocks of equal size,
        and w outputs per channel (an attention head, an intrinsic map with its ghosts), each block
        is rounded to ``multiple / gcd(multiple, n w)``.
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
        """Greatest common divisor of the numbers of writer outputs of these channels."""
        return math.gcd(*(len(index[channel]) for index in self.producers.values() for channel in channels)) or 1

    def ranked(self, scores: Sequence[float]) -> list[int]:
        """The order of removal by score: lowest first; of equal scores, the last channel first.

        Args:
            scores: one finite number per channel.

        Returns:
            A permutation of the channels, least needed first. Blocks take turns, as
            :meth:`check_order` requires.

        Raises:
            ValueError: unless there is one finite score per channel.
        """
        if len(scores) != self.channels or not all(math.isfinite(score) for score in scores):
            raise ValueError(f"{self.name} needs {self.channels} finite scores")
        return self.interleaved(
            [sorted(block, key=lambda channel: (float(scores[channel]), -channel)) for block in self.blocks]
        )

    @staticmethod
    def interleaved(blocks: Sequence[Sequence[int]]) -> list[int]:
        """Merges the orders of the blocks: blocks take turns in proportion to their sizes."""

        def places() -> Iterator[tuple[float, int, int]]:
            for number, block in enumerate(blocks):
                yield from (((place + 1) / len(block), number, channel) for place, channel in enumerate(block))

        return [channel for _, _, channel in sorted(places(), key=lambda place: place[:2])]

    def left_by(self, order: Sequence[int], counts: Sequence[int]) -> list[int]:
        """The channels to keep, ascending, when the others are removed in ``order``.

        Args:
            order: all channels, least needed first.
            counts: the number to keep in each block; see :meth:`kept`.
        """
        place = {channel: position for position, channel in enumerate(order)}
        keep: list[int] = []
        for block, count in zip(self.blocks, counts, strict=True):
            keep += sorted(block, key=lambda channel: place[channel])[len(block) - count :]
        return sorted(keep)

    def check_order(self, order: Sequence[int]) -> None:
        """Refuses an invalid order of the channels.

        Raises:
            ValueError: if it is not a permutation of the channels, or if blocks of equal size do
                not take turns.
        """
        if sorted(order) != list(range(self.channels)):
            raise ValueError(f"{self.name}: an order must be a permutation of 0..{self.channels - 1}")
        block_of = {channel: number for number, block in enumerate(self.blocks) for channel in block}
        taken = [0] * len(self.blocks)
        for channel in order:
            own = block_of[channel]
            behind = min(n for n, block in zip(taken, self.blocks, strict=True) if len(block) == len(self.blocks[own]))
            if taken[own] > behind:
                raise ValueError(f"{self.name}: blocks of one size must lose their channels in turns")
            taken[own] += 1

    def check_keep(self, keep: Sequence[int]) -> None:
        """Refuses an invalid set of channels to keep.

        Raises:
            ValueError: if it is empty, not ascending or out of range, removes a whole block, or
                removes unequal shares of blocks of equal size.
        """
        if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= self.channels:
            raise ValueError(f"{self.name}: a keep-set is ascending, not empty and within 0..{self.channels - 1}")
        chosen = set(keep)
        sizes: dict[int, set[int]] = {}
        for block in self.blocks:
            sizes.setdefault(len(block), set()).add(sum(channel in chosen for channel in block))
        if any(len(left) > 1 or 0 in left for left in sizes.values()):
            raise ValueError(
                f"{self.name}: each of its {len(self.blocks)} blocks must keep the same number of channels"
            )

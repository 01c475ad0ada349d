"""Order of removal of the channels of a coupling, by the error after a refit.

This is backward elimination with the update of the Optimal Brain Surgeon (Hassibi and Stork, NIPS
1992), channel by channel as in Optimal Brain Compression (Frantar and Alistarh, NeurIPS 2022, arXiv
2208.11580).

Let H = (G + lambda s I)^-1 over the columns of a consumer with weights W. Removing the columns c of
a channel and refitting the others adds the error

    err(c) = tr(W_c H_cc^-1 W_c^T)                        (1)

and changes W and H to

    W <- W - W_c H_cc^-1 H_c:                             (2)
    H <- H - H_:c H_cc^-1 H_c:                            (3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from autocompress.repair.moments import Moments, factor

SHRINK = 0.7
"""Matrices are copied without removed columns when less than this share is left.

Otherwise they are changed in place, because copies of large matrices take longer than equation (3).
"""
STEPS = 32
"""Channels are removed in chunks of C / STEPS, which is faster and gives almost the same order."""


@dataclass
class Reader:
    """The data of one group of one consumer for the elimination.

    Attributes:
        weight: W over the columns of the coupling, ``[outputs, n]``; rows are scaled by importance.
        inverse: H over the same columns, ``[n, n]``. Both are changed in place; some columns may
            belong to removed channels.
        columns: for each channel of the coupling that this group reads, its columns among the n.
    """

    weight: torch.Tensor
    inverse: torch.Tensor
    columns: dict[int, torch.Tensor]

    def costs(self) -> dict[int, float]:
        """Equation (1) for every remaining channel."""
        found: dict[int, float] = {}
        by_size: dict[int, list[int]] = {}
        for channel, columns in self.columns.items():
            by_size.setdefault(len(columns), []).append(channel)
        for size, channels in by_size.items():
            if not size:
                found.update(dict.fromkeys(channels, 0.0))
                continue
            index = torch.stack([self.columns[channel] for channel in channels])
            blocks = self.inverse[index[:, :, None], index[:, None, :]]
            weights = self.weight[:, index].transpose(0, 1).contiguous()  # [channels, outputs, size]
            errors = (torch.linalg.inv(blocks) * (weights.mT @ weights)).sum((1, 2))  # tr(A B) = sum(A * B)
            found.update(zip(channels, errors.tolist(), strict=True))
        return found

    def remove(self, channels: Sequence[int]) -> float:
        """Equations (2) and (3) for several channels at once; returns the error that they add."""
        mine = [self.columns.pop(channel) for channel in channels if channel in self.columns]
        gone = torch.cat(mine) if mine else torch.empty(0, dtype=torch.int64)
        if not len(gone):
            return 0.0
        block = factor(self.inverse[gone[:, None], gone].double())
        weights, rows = self.weight[:, gone], self.inverse[gone]
        solved = torch.cholesky_solve(weights.T.double(), block).to(weights).T
        self.weight.addmm_(solved, rows, alpha=-1)
        half = torch.linalg.solve_triangular(block.to(rows), rows, upper=False)  # L^-1 H_c:
        self.inverse.addmm_(half.T, half, alpha=-1)
        self._shrink()
        return float((solved * weights).sum())

    def _shrink(self) -> None:
        """Leaves out the columns of removed channels, once they are many."""
        left = torch.cat(list(self.columns.values())) if self.columns else torch.empty(0, dtype=torch.int64)
        if len(left) > SHRINK * len(self.inverse):
            return
        self.weight, self.inverse = self.weight[:, left], self.inverse[left[:, None], left]
        own = torch.arange(len(left)).split([len(columns) for columns in self.columns.values()])
        self.columns = dict(zip(self.columns, own, strict=True))


def inverses(moments: Moments) -> list[torch.Tensor]:
    """H of each group, float64 ``[width, width]``, for all couplings that the layer reads."""
    return [_inverse(moments, group) for group in range(moments.columns.groups)]


def _inverse(moments: Moments, group: int) -> torch.Tensor:
    return torch.cholesky_inverse(factor(moments.regularised(group)))


def readers(
    matrix: torch.Tensor,
    moments: Moments,
    index: Sequence[Sequence[int]],
    weights: torch.Tensor | None = None,
    inverted: Sequence[torch.Tensor] | None = None,
) -> list[Reader]:
    """The readers of a consumer: one for each of its groups that reads the coupling.

    Args:
        matrix: W, float64 ``[groups, outputs, width]``.
        moments: moments of the input of the consumer.
        index: the input channels of the consumer for each channel of the coupling.
        weights: importance of each output, ``[groups, outputs]``, for example the square of gamma /
            sigma of the norm behind it. Rows of W are scaled by the square root.
        inverted: :func:`inverses` of the moments, if they are known.
    """
    scaled = matrix if weights is None else matrix * weights.sqrt()[:, :, None]
    columns = [moments.columns.of_inputs(inputs) for inputs in index]
    found = []
    for group in range(len(matrix)):
        own = {channel: pairs[pairs[:, 0] == group, 1] for channel, pairs in enumerate(columns)}
        own = {channel: of for channel, of in own.items() if len(of)}
        if not own:
            continue
        every = torch.cat(list(own.values()))
        place = torch.full((moments.columns.width,), -1, dtype=torch.int64)
        place[every] = torch.arange(len(every))
        inverse = (_inverse(moments, group) if inverted is None else inverted[group])[every[:, None], every]
        found.append(
            Reader(
                scaled[group][:, every].float(),
                inverse.float(),
                {channel: place[of] for channel, of in own.items()},
            )
        )
    return found


def eliminate(
    channels: int,
    consumers: Mapping[str, Sequence[Reader]],
    scales: Mapping[str, float],
    blocks: Sequence[Sequence[int]],
    steps: int = STEPS,
) -> list[int]:
    """All channels of a coupling, least needed first.

    Args:
        channels: number of channels.
        consumers: readers by consumer; they are changed.
        scales: divisors of the errors of each consumer.
        blocks: partition of the channels; each chunk has the same share of every block.
        steps: number of chunks.

    Returns:
        A permutation of ``range(channels)``. Channels of different blocks alternate, so that every
        prefix has the same share of blocks of equal size.
    """
    left = [list(block) for block in blocks]
    order: list[int] = []
    while any(left):
        costs = [0.0] * channels
        for name, own in consumers.items():
            for reader in own:
                for channel, cost in reader.costs().items():
                    costs[channel] += cost / scales[name]
        taken: list[list[int]] = []
        for position, block in enumerate(left):
            count = min(len(block), max(1, len(blocks[position]) // steps))
            first = sorted(block, key=lambda channel: (costs[channel], channel))[:count]
            taken.append(first)
            left[position] = [channel for channel in block if channel not in set(first)]
        rounds = max(len(block) for block in taken)
        chunk = [block[place] for place in range(rounds) for block in taken if place < len(block)]
        order += chunk
        for own in consumers.values():
            for reader in own:
                reader.remove(chunk)
    return order

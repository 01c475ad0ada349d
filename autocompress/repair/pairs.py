"""Moments of the inputs of a layer together with its wanted outputs, and the fit to them.

Let x be the input of a layer, and y its wanted output:

    W' = W + (C - W G) (G + lambda s I)^-1,   b' = b - W' a          (1)

where a = E[x], b = E[y], G is the covariance of x, and C = E[(y - b)(x - a)^T].
"""

from __future__ import annotations

from typing import Self

import torch

from autocompress.repair.columns import Columns
from autocompress.repair.moments import Moments, Sums, dual, factor


class PairSums(Sums):
    """Sums over samples of x and of y."""

    def __init__(self, shift: torch.Tensor, outputs: torch.Tensor) -> None:
        super().__init__(shift)
        self.output_shift = outputs
        self.output_first = torch.zeros_like(outputs)
        self.cross = torch.zeros((*outputs.shape, shift.shape[1]), dtype=torch.float64)

    def add_pair(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Adds samples: ``[groups, samples, width]`` of x, ``[groups, samples, outputs]`` of y."""
        self.add(x)
        centred = y - self.output_shift[:, None].to(y)
        self.output_first += centred.sum(1, dtype=torch.float64).cpu()
        self.cross += (centred.transpose(1, 2) @ (x - self.shift[:, None].to(x))).cpu()

    def merged(self, other: Self) -> Self:
        """Sums over both; the shifts are the same."""
        both = super().merged(other)
        both.output_first, both.cross = self.output_first + other.output_first, self.cross + other.cross
        return both

    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """b ``[groups, outputs]`` and C ``[groups, outputs, width]``."""
        offset, own = self.output_first / self.count, self.first / self.count
        return self.output_shift + offset, self.cross / self.count - offset[:, :, None] * own[:, None, :]


class DualPairs:
    """Samples of x and y, for layers with more columns than samples."""

    def __init__(self) -> None:
        self.x: list[torch.Tensor] = []
        self.y: list[torch.Tensor] = []

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(x.shape[1] for x in self.x)

    def add_pair(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Adds samples; arguments are those of :meth:`PairSums.add_pair`."""
        self.x.append(x.float().cpu())
        self.y.append(y.float().cpu())

    def merged(self, other: DualPairs) -> DualPairs:
        """The samples of both."""
        both = DualPairs()
        both.x, both.y = self.x + other.x, self.y + other.y
        return both

    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """b ``[groups, outputs]`` and C ``[groups, outputs, width]``."""
        x, y = torch.cat(self.x, 1).double(), torch.cat(self.y, 1).double()
        mean = y.mean(1)
        return mean, (y - mean[:, None]).transpose(1, 2) @ (x - x.mean(1, keepdim=True)) / self.count

    def moments(self, columns: Columns) -> Moments:
        """a and G of x."""
        return dual(columns, self.x)


def fit(matrix: torch.Tensor, moments: Moments, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """W' of equation (1), float64 ``[groups, outputs, width]``.

    In the dual form, G = X^T X / n with one sample per row of X. With s' = lambda s, Woodbury's
    identity gives M (G + s' I)^-1 = (M - M X^T (X X^T + n s' I)^-1 X) / s'.
    """
    strength = (ridge * moments.scale).clamp(min=1e-30)
    if moments.covariance is None:
        assert moments.samples is not None
        samples = moments.samples.double()
        missing = cross - (matrix @ samples.transpose(1, 2)) @ samples / moments.count
        system = samples @ samples.transpose(1, 2)
        system.diagonal(dim1=1, dim2=2).add_(moments.count * strength[:, None])
        inside = torch.cholesky_solve(samples @ missing.transpose(1, 2), factor(system)).transpose(1, 2)
        return matrix + (missing - inside @ samples) / strength[:, None, None]
    system = moments.covariance.clone()
    system.diagonal(dim1=1, dim2=2).add_(strength[:, None])
    missing = cross - matrix @ moments.covariance
    return matrix + torch.cholesky_solve(missing.transpose(1, 2), factor(system)).transpose(1, 2)

"""Rounds weights to few levels so that the outputs of the layer change least, from moments.

With G the covariance of the layer's columns, the error of a rounded weight matrix Q is

    E(Q) = tr((Q - W) (G + lambda s I) (Q - W)^T)                     (1)

where s is the mean diagonal of G. The rows are independent. Rounding to the nearest level minimises
(1) only for G = I.

GPTQ (Frantar et al., arXiv 2210.17323) rounds one column i after the other, and corrects the
columns behind it for its error. U is the upper Cholesky factor of (G + lambda s I)^-1:

    e = (w_i - q_i) / U_ii,      w_j <- w_j - e U_ij,  j > i          (2)

Columns are rounded in descending order of the diagonal of G. Coordinate descent then moves each
weight to the level that minimises (1) while all others are fixed. P = (Q - W) (G + lambda s I) is
kept up to date:

    q_i <- the level nearest to q_i - P_i / G_ii                      (3)

For fixed integers Z = Q / r the scale of a row that minimises (1) is

    r = (W G Z^T) / (Z G Z^T)                                         (4)

G does not contain the means a of the columns, so b' = (W - Q) a is added to the layer's bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from autocompress.repair.moments import DEFAULT_RIDGE, NOTHING, Moments, factor

Rounding = Literal["nearest", "gptq", "descent"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "gptq", "descent")
BLOCK = 128
"""Columns that are rounded between two matrix products."""
SWEEPS, SWEEPS_AGAIN, RESCALES = 3, 2, 2
"""Sweeps of coordinate descent before scales are fitted and after each fit; number of fits."""
SHARES = 40
"""Number of ranges to try, from 0.15 to 1 of the largest weight."""
SMALLEST = 1e-12
"""The smallest scale."""


@dataclass(frozen=True)
class Levels:
    """Evenly spaced levels in units of a scale.

    Attributes:
        low: the lowest.
        step: between neighbours.
        last: index of the highest.
    """

    low: float
    step: float
    last: int

    @classmethod
    def of(cls, values: torch.Tensor) -> Levels:
        """Makes levels from their values, ascending and evenly spaced: ``[m]``, m at least 2."""
        return cls(float(values[0]), float(values[1] - values[0]), len(values) - 1)

    @property
    def largest(self) -> float:
        """The largest magnitude that exists with both signs."""
        return min(-self.low, self.low + self.step * self.last)

    def nearest(self, matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """``matrix`` ``[..., rows, width]``, rounded to the levels at ``scale`` ``[..., rows]``."""
        size = scale[..., None]
        index = ((matrix / size - self.low) / self.step).round().clamp(0, self.last)
        return (self.low + self.step * index) * size


def least_squares_scale(matrix: torch.Tensor, levels: Levels, *, shared: bool = False) -> torch.Tensor:
    """The scale of each row whose nearest levels have the least squared error.

    Args:
        matrix: ``[groups, rows, width]``.
        levels: the levels.
        shared: one scale for all rows.

    Returns:
        ``[groups, rows]``.
    """
    largest = matrix.abs().amax((0, 1, 2) if shared else 2, keepdim=True).expand(*matrix.shape[:2], 1)[..., 0]
    whole = (largest / levels.largest).clamp(min=SMALLEST)
    best, least = whole, torch.full_like(whole, torch.inf)
    for share in torch.linspace(0.15, 1.0, SHARES).tolist():
        scale = whole * share
        error = (levels.nearest(matrix, scale) - matrix).square().sum(2)
        error = error.sum().expand_as(error) if shared else error
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    codes = levels.nearest(matrix, best) / best[..., None]
    return _fitted((codes * matrix).sum(2), codes.square().sum(2), best, shared=shared)


def rounded(
    matrix: torch.Tensor,
    moments: Moments,
    levels: Levels,
    how: Rounding,
    *,
    scale: torch.Tensor | None = None,
    shared: bool = False,
    ridge: float = DEFAULT_RIDGE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and the scale of each row.

    Args:
        matrix: W, ``[groups, rows, width]``.
        moments: moments of the layer's input.
        levels: the levels of Q, in units of the scale.
        how: "nearest" uses no moments; "gptq"; "descent" begins with GPTQ, and fits scales.
        scale: ``[groups, rows]``; None for the scale with the least squared error.
        shared: one scale for all rows.
        ridge: lambda of equation (1).

    Returns:
        Q, float32 like ``matrix`` in shape, and scales, float32 ``[groups, rows]``.
    """
    scale = (least_squares_scale(matrix, levels, shared=shared) if scale is None else scale).float()
    weight = matrix.float()
    if how == "nearest":
        return levels.nearest(weight, scale), scale
    wide = [_system(moments, group, ridge) for group in range(len(matrix))]
    found = [_gptq(weight[group], system, scale[group], levels) for group, system in enumerate(wide)]
    if how == "gptq":
        return torch.stack(found), scale
    systems, sizes = [system.float() for system in wide], scale

    def descend(sweeps: int) -> None:
        for group, system in enumerate(systems):
            found[group] = _descend(found[group], weight[group], system, sizes[group], levels, sweeps)

    descend(SWEEPS)
    for _ in range(RESCALES):
        sizes = _rescale(found, weight, systems, sizes, shared=shared)
        descend(SWEEPS_AGAIN)
    sizes = _rescale(found, weight, systems, sizes, shared=shared)
    return torch.stack(found), sizes


def error(matrix: torch.Tensor, new: torch.Tensor, moments: Moments, ridge: float = DEFAULT_RIDGE) -> float:
    """Equation (1), summed over groups and rows."""
    lost = (new - matrix).double()
    systems = [_system(moments, group, ridge) for group in range(len(matrix))]
    return float(sum(((lost[group] @ system) * lost[group]).sum() for group, system in enumerate(systems)))


def _system(moments: Moments, group: int, ridge: float) -> torch.Tensor:
    """G + lambda s I of one group, float64."""
    system = moments.regularised(group)
    strength = max(float(moments.scale[group]), NOTHING)
    system.diagonal().add_((ridge - moments.ridge) * strength)
    return system


def _gptq(weight: torch.Tensor, system: torch.Tensor, scale: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Equation (2), float32 ``[rows, width]``."""
    from autocompress.repair.rounding_kernels import round_block  # imported here, because numba takes half a second

    order = system.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(factor(system[order[:, None], order]))
    upper = factor(inverse).T.float().contiguous()  # the factor with U^T U = inverse, not that of the flipped matrix
    left, found = weight[:, order].contiguous(), torch.empty_like(weight)
    for first in range(0, len(order), BLOCK):
        end = min(first + BLOCK, len(order))
        given = (left.numpy(), found.numpy(), upper.numpy(), scale.numpy())
        round_block(*given, levels.low, levels.step, levels.last, first, end)
        left[:, end:] -= left[:, first:end] @ upper[first:end, end:]
    result = torch.empty_like(found)
    result[:, order] = found
    return result


def _descend(
    codes: torch.Tensor,
    weight: torch.Tensor,
    system: torch.Tensor,
    scale: torch.Tensor,
    levels: Levels,
    sweeps: int,
) -> torch.Tensor:
    """Equation (3), ``sweeps`` times over all columns."""
    from autocompress.repair.rounding_kernels import descend_block  # imported here, as above

    found = codes.contiguous()
    for _ in range(sweeps):
        slope, moved = (found - weight) @ system, 0
        for first in range(0, found.shape[1], BLOCK):
            end = min(first + BLOCK, found.shape[1])
            inside = slope[:, first:end].contiguous()
            change = torch.empty_like(inside)
            given = (found.numpy(), inside.numpy(), change.numpy(), system.numpy(), scale.numpy())
            moved += descend_block(*given, levels.low, levels.step, levels.last, first, end)
            slope[:, end:] += change @ system[first:end, end:]
        if not moved:
            break
    return found


def _rescale(
    found: list[torch.Tensor],
    weight: torch.Tensor,
    systems: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    shared: bool,
) -> torch.Tensor:
    """Equation (4) for each row; ``found`` is moved to the new scales."""
    codes = [each / size[:, None] for each, size in zip(found, scale, strict=True)]
    through = [code @ system for code, system in zip(codes, systems, strict=True)]
    above = torch.stack([(each * own).sum(1) for each, own in zip(through, weight, strict=True)])
    below = torch.stack([(each * code).sum(1) for each, code in zip(through, codes, strict=True)])
    fitted = _fitted(above, below, scale, shared=shared)
    for group, code in enumerate(codes):
        found[group] = code * fitted[group][:, None]
    return fitted


def _fitted(above: torch.Tensor, below: torch.Tensor, old: torch.Tensor, *, shared: bool) -> torch.Tensor:
    """above / below if that is a valid scale, else the old scale."""
    if shared:
        above, below = above.sum().expand_as(above), below.sum().expand_as(below)
    found = above / below.clamp(min=1e-20)
    return torch.where((below > 0) & (found > SMALLEST), found, old)

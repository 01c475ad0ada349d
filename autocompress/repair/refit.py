"""Refits the weights of a layer after some of its input columns are removed, from moments.

Let S be the kept columns, R the removed ones, and W the old weights. The least-squares fit of the
old outputs is

    W'_S = W_S + W_R G_RS (G_SS + lambda s I)^-1          (1)
    b'   = W_R a_R - (W'_S - W_S) a_S                     (2)

where a and G are the mean and covariance of the columns, s is the mean diagonal of G, and b' is
added to the outputs of the layer. The ridge term pulls towards the OLD weights: without
information, W' is W. For many columns, the same W' is computed from the samples X = x - a (the dual
form):

    W'_S = W_S + W_R X_R^T (X_S X_S^T + n lambda s I)^-1 X_S          (3)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autocompress.files import digest
from autocompress.repair.moments import DEFAULT_RIDGE, NOTHING, RIDGES, Moments, factor

RIDGE_OUTPUTS = 64
"""Number of random outputs of a layer on which lambda is chosen. More would rarely change it."""


def refit(
    matrix: torch.Tensor, moments: Moments, kept: torch.Tensor, ridge: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations (1) and (2), or (3) in the dual form.

    Args:
        matrix: W, float64 ``[groups, outputs, width]``.
        moments: moments of the input of the layer. With G in float32 (:meth:`Moments.in_float32`),
            the equations are solved in float32.
        kept: bool ``[groups, width]``, True for the columns in S.
        ridge: lambda; None for that of ``moments``.

    Returns:
        W' with zeros at the columns in R, float64 like ``matrix``, and b', ``[groups, outputs]``.
    """
    strength = moments.ridge if ridge is None else ridge
    return next(_refits(matrix, moments, kept, [strength]))


def _refits(
    matrix: torch.Tensor, moments: Moments, kept: torch.Tensor, ridges: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """:func:`refit` for each lambda; what does not depend on it is computed once."""
    sides = [(stay.nonzero().flatten(), (~stay).nonzero().flatten()) for stay in kept]
    fits = [_Fit.of(matrix[group], moments, group, *side) for group, side in enumerate(sides)]
    for ridge in ridges:
        new, shift = torch.zeros_like(matrix), matrix.new_zeros(matrix.shape[:2])
        for group, (weight, fit, (left, gone)) in enumerate(zip(matrix, fits, sides, strict=True)):
            strength = ridge * float(moments.scale[group])
            if fit is None or strength <= NOTHING:
                change = weight.new_zeros((len(weight), len(left)))
            else:
                change = fit.change(strength).to(weight)
            mean = moments.mean[group]
            new[group][:, left] = weight[:, left] + change
            shift[group] = weight[:, gone] @ mean[gone] - change @ mean[left]
        yield new, shift


@dataclass
class _Fit:
    """The equations of one group, before lambda is known.

    Attributes:
        system: G_SS, or X_S X_S^T in the dual form. :meth:`change` adds the ridge to its diagonal.
        diagonal: the diagonal without the ridge.
        target: the transpose of W_R G_RS, or of W_R X_R^T.
        inside: X_S in the dual form; else None.
        count: number of samples in the dual form, else 1; lambda s is multiplied by it.
    """

    system: torch.Tensor
    diagonal: torch.Tensor
    target: torch.Tensor
    inside: torch.Tensor | None = None
    count: int = 1

    @classmethod
    def of(
        cls, weight: torch.Tensor, moments: Moments, group: int, left: torch.Tensor, gone: torch.Tensor
    ) -> _Fit | None:
        """The equations for the weights of a group; None if S or R has no column."""
        if not len(left) or not len(gone):
            return None
        if moments.covariance is not None:
            covariance = moments.covariance[group]
            system = covariance[left[:, None], left]
            cross = weight[:, gone].to(covariance) @ covariance[gone[:, None], left]
            return cls(system, system.diagonal().clone(), cross.T)
        assert moments.samples is not None
        samples = moments.samples[group]
        inside = samples[:, left].double()
        system = inside @ inside.T
        target = weight[:, gone] @ samples[:, gone].double().T
        return cls(system, system.diagonal().clone(), target.T, inside, moments.count)

    def change(self, ridge: float) -> torch.Tensor:
        """W'_S - W_S, ``[outputs, columns in S]``, where ``ridge`` is lambda s."""
        self.system.diagonal().copy_(self.diagonal + self.count * ridge)
        solved = torch.cholesky_solve(self.target, factor(self.system)).T
        return solved if self.inside is None else solved @ self.inside


def output_error(old: torch.Tensor, new: torch.Tensor, shift: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Mean squared change of the outputs of the layer, summed over outputs, float64 ``[groups]``.

    Args:
        old, new: weight matrices ``[groups, outputs, width]``.
        shift: b', ``[groups, outputs]``.
        moments: moments of the images for the error.
    """
    lost = old - new
    mean = (lost @ moments.mean[:, :, None])[:, :, 0] - shift
    return (moments.energy(lost) + mean.square()).sum(1)


def choose_ridge(layer: nn.Module, whole: Moments, fit: Moments, held_out: Moments) -> float:
    """The best lambda for a refit without a random half of the inputs, on held-out images.

    Args:
        layer: the layer that reads the columns.
        whole: moments over all images; only its columns are used.
        fit: moments over the images for the fit.
        held_out: moments over the images for the error.
    """
    columns = whole.columns
    if columns.inputs < 2:
        return DEFAULT_RIDGE
    matrix = columns.weight(layer).to(whole.mean.device)
    generator = torch.Generator().manual_seed(int(digest("ridge", list(matrix.shape))[:15], 16))
    matrix = matrix[:, torch.randperm(matrix.shape[1], generator=generator)[:RIDGE_OUTPUTS]]
    stays = torch.rand((columns.groups, columns.inputs), generator=generator).argsort(1) < (columns.inputs + 1) // 2
    kept = stays.repeat_interleave(len(columns.taps), dim=1)
    fits = zip(RIDGES, _refits(matrix, fit, kept, RIDGES), strict=True)
    errors = {ridge: float(output_error(matrix, *found, held_out).sum()) for ridge, found in fits}
    return min(errors, key=lambda ridge: errors[ridge])

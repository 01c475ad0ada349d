"""Refits the weights of a layer after some of its input columns are removed, from moments.

Let S be the kept columns, R the removed ones, and W the old weights. The least-squares fit of the
old outputs is

    W'_S = W_S + W_R G_RS (G_SS + lambda s I)^-1          (1)
    b'   = W_R a_R - (W'_S - W_S) a_S                     (2)

where a and G are the mean and covariance of the columns, s is the mean diagonal of G, and b' is
added to the outputs of the layer. The ridge term pulls towards the OLD weights, so that W' is W
without information. For many columns, the same W' is computed from the samples X = x - a (the dual
form):

    W'_S = W_S + W_R X_R^T (X_S X_S^T + n lambda s I)^-1 X_S          (3)
"""

from __future__ import annotations

import torch
from torch import nn

from autocompress.files import digest
from autocompress.repair.moments import DEFAULT_RIDGE, NOTHING, RIDGES, Moments, factor

RIDGE_OUTPUTS = 64
"""Number of random outputs of a layer on which lambda is chosen; more rarely change the choice."""


def refit(
    matrix: torch.Tensor, moments: Moments, kept: torch.Tensor, ridge: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations (1) and (2), or (3) in the dual form.

    Args:
        matrix: W, float64 ``[groups, outputs, width]``.
        moments: of the input of the layer. With G in float32 (:meth:`Moments.in_float32`), the
            equations are solved in float32.
        kept: bool ``[groups, width]``, True for the columns in S.
        ridge: lambda; None for that of ``moments``.

    Returns:
        W' with zeros at the columns in R, float64 like ``matrix``, and b', ``[groups, outputs]``.
    """
    strength = moments.ridge if ridge is None else ridge
    new, shift = torch.zeros_like(matrix), matrix.new_zeros(matrix.shape[:2])
    for group, (weight, stay) in enumerate(zip(matrix, kept, strict=True)):
        left, gone = stay.nonzero().flatten(), (~stay).nonzero().flatten()
        change = _change(weight, moments, group, left, gone, strength * float(moments.scale[group]))
        mean = moments.mean[group]
        new[group][:, left] = weight[:, left] + change
        shift[group] = weight[:, gone] @ mean[gone] - change @ mean[left]
    return new, shift


def _change(
    weight: torch.Tensor, moments: Moments, group: int, left: torch.Tensor, gone: torch.Tensor, ridge: float
) -> torch.Tensor:
    """W'_S - W_S of one group; ``ridge`` is lambda s."""
    if ridge <= NOTHING or not len(left) or not len(gone):
        return weight.new_zeros((len(weight), len(left)))
    if moments.covariance is not None:
        covariance = moments.covariance[group]
        system = covariance[left[:, None], left]
        system.diagonal().add_(ridge)
        cross = weight[:, gone].to(covariance) @ covariance[gone[:, None], left]
        return torch.cholesky_solve(cross.T, factor(system)).T.to(weight)
    assert moments.samples is not None
    samples = moments.samples[group]
    inside = samples[:, left].double()
    system = inside @ inside.T
    system.diagonal().add_(moments.count * ridge)
    target = weight[:, gone] @ samples[:, gone].double().T
    return torch.cholesky_solve(target.T, factor(system)).T @ inside


def output_error(old: torch.Tensor, new: torch.Tensor, shift: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Mean squared change of the outputs of the layer, summed over outputs, float64 ``[groups]``.

    Args:
        old, new: weight matrices ``[groups, outputs, width]``.
        shift: b', ``[groups, outputs]``.
        moments: of the images for the error.
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
    errors = {}
    for ridge in RIDGES:
        new, shift = refit(matrix, fit, kept, ridge)
        errors[ridge] = float(output_error(matrix, new, shift, held_out).sum())
    return min(errors, key=lambda ridge: errors[ridge])

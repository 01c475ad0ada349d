"""Error of every width of a coupling after a refit, for any order of its channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autocompress.repair.moments import Moments, factor


def curve(
    matrix: torch.Tensor,
    moments: Moments,
    index: Sequence[Sequence[int]],
    order: Sequence[int],
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Error of one consumer for each prefix of ``order`` that is removed before a refit.

    Sort the columns so that those removed first are last, and let G + lambda s I = L L^T. Removing
    the last columns R gives the error ||W_R L_RR||^2, because L_RR L_RR^T is their Schur
    complement. The ridge term is included. So one Cholesky factor gives the error of all widths.

    Args:
        matrix: W, float64 ``[groups, outputs, width]``.
        moments: moments of the input of the consumer.
        index: the input channels of the consumer for each channel of the coupling.
        order: permutation of the channels of the coupling, least needed first.
        weights: importance of each output, ``[groups, outputs]``; None for 1.

    Returns:
        float64 ``[channels + 1]``: entry r is the error, summed over outputs, with the first r
        channels of ``order`` removed; entry 0 is 0.
    """
    scaled = matrix if weights is None else matrix * weights.sqrt()[:, :, None]
    pairs = [moments.columns.of_inputs(index[channel]) for channel in order]
    errors = torch.zeros(len(order) + 1, dtype=torch.float64)
    for group in range(len(matrix)):
        own = [of[of[:, 0] == group, 1] for of in pairs]
        going = torch.cat(own)
        if not len(going):
            continue
        stays = torch.ones(moments.columns.width, dtype=torch.bool)
        stays[going] = False
        last_first = torch.cat([stays.nonzero().flatten(), going.flip(0)])
        lower = factor(moments.regularised(group)[last_first[:, None], last_first])
        lost = (scaled[group][:, last_first] @ lower).square().sum(0)
        of_columns = lost[len(last_first) - len(going) :].flip(0).split([len(of) for of in own])
        errors[1:] += torch.stack([of.sum() for of in of_columns]).cumsum(0)
    return errors

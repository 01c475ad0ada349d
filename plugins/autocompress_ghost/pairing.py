"""Chooses the intrinsic rows of a layer, and an intrinsic row for each ghost.

The paper trains ghost modules from scratch, and has no such choice. Both choices use a Gram matrix
G of the rows of the layer, ``[n, n]``: ``W W^T`` of the weights, or the covariance of the output
channels on calibration images. The error of fitting row j by a multiple of row i is

    min_a || Y_j - a Y_i ||^2 = G_jj - G_ij^2 / G_ii.
"""

from __future__ import annotations

import numpy as np

from autocompress_ghost.module import intrinsic_count


def intrinsic_rows(gram: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, ascending. Each chosen row is the one that the earlier choices fit worst.

    Pivoted QR of ``W^T`` measures the fit by the span of the earlier rows. But a ghost has a single
    source. If a layer has more channels than inputs, the span is soon complete and further pivots
    are arbitrary.
    """
    power = np.diag(gram)
    left = power.astype(float).copy()
    chosen: list[int] = []
    for _ in range(count):
        row = int(left.argmax())
        chosen.append(row)
        if power[row] > 0:
            left = np.minimum(left, power - gram[:, row] ** 2 / power[row])
        left[chosen] = -1.0
    return np.sort(chosen)


def fit_errors(gram: np.ndarray, targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Squared errors of the best multiple (0 for a zero source), ``[targets, sources]``."""
    power = np.diag(gram)
    explained = np.zeros((len(targets), len(sources)))
    np.divide(gram[np.ix_(targets, sources)] ** 2, power[sources], out=explained, where=power[sources] > 0)
    return power[targets, None] - explained


def channel_order(gram: np.ndarray, ratio: int) -> np.ndarray:
    """The row for each position of the concat, int64 ``(n,)``.

    The first m positions are the intrinsic rows. Position m + j m + i is ghost j of intrinsic i, so
    an intrinsic row has at most s - 1 ghosts. Without the surplus there is one position for each
    row, and the Hungarian algorithm assigns rows with the least total error.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import; listing methods does not need it

    n = len(gram)
    m = intrinsic_count(n, ratio)
    intrinsic = intrinsic_rows(gram, m)
    others = np.setdiff1d(np.arange(n), intrinsic)
    owner = np.arange(n - m) % m
    errors = fit_errors(gram, others, intrinsic)
    rows, positions = linear_sum_assignment(errors[:, owner])
    ghosts = np.empty(n - m, dtype=np.int64)
    ghosts[positions] = others[rows]
    return np.concatenate([intrinsic, ghosts]).astype(np.int64)

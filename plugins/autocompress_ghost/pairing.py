"""Which rows of a layer stay intrinsic, and whose ghosts the others become (section 7).

Both questions are answered from a Gram matrix ``G [n, n]`` of the layer's rows: ``W W^T`` of the
weights alone, or the covariance of the output channels on calibration images. The error of fitting
row j by a multiple of row i is

    min_a || Y_j - a Y_i ||^2 = G_jj - G_ij^2 / G_ii.
"""

from __future__ import annotations

import numpy as np

from autocompress_ghost.module import intrinsic_count


def intrinsic_rows(gram: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, ascending: each next row is the one that the rows before it fit worst.

    Pivoted QR of ``W^T`` does so with the span of the rows before. But a ghost has one source only,
    and where a layer has more channels than inputs the span is soon exhausted and QR's further
    pivots are arbitrary.
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
    """For each position of the concat the row it stands for, int64 ``(n,)``.

    The first m positions are the intrinsic rows. Position m + j m + i is ghost j of intrinsic i, so
    an intrinsic row has at most s - 1 ghosts; after the surplus is sliced off there are just as
    many positions as rows, and the Hungarian algorithm fills them with the least total error.
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

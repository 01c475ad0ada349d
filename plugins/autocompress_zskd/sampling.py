"""A Dirichlet distribution of the teacher's outputs for each class.

Nayak et al., ICML 2019, section 3.2.

w_k in R^d is the row of the last layer for class k of K; its bias is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

EPSILON = 1e-4
"""Added to each concentration, as in the official code: that of the least similar class is 0."""
FLAT = 1e-6
"""A row of similarities with a smaller range is treated as constant."""


def class_similarity(weight: torch.Tensor) -> torch.Tensor:
    """C(i, j) = w_i . w_j / (||w_i|| ||w_j||): float64 ``(K, K)`` of ``(K, d)``."""
    rows = F.normalize(weight.detach().double().flatten(1), dim=1)
    return rows @ rows.T


def concentrations(similarity: torch.Tensor) -> torch.Tensor:
    """alpha^k_j = (C(k, j) - min_j C(k, .)) / (max_j C(k, .) - min_j C(k, .)), from 0 to 1.

    Rows are those of ``(K, K)``.

    A row in which all classes are equally similar becomes ones.
    """
    low = similarity.min(1, keepdim=True).values
    span = similarity.max(1, keepdim=True).values - low
    return torch.where(span > FLAT, (similarity - low) / span.clamp_min(FLAT), torch.ones_like(similarity))


def scaled(alpha: torch.Tensor, beta: float) -> torch.Tensor:
    """The concentrations of the distribution: beta alpha + epsilon.

    The official code normalises again after scaling, so there beta cancels out. Here
    beta is applied last, as in the equation of the paper.
    """
    return beta * alpha + EPSILON


def soft_labels(alpha: torch.Tensor, beta: float, n: int, random: np.random.Generator) -> torch.Tensor:
    """``n`` draws y ~ Dir(beta alpha + epsilon): float32 ``(n, K)``, rows of probabilities.

    E[y_j] = alpha_j / sum(alpha), whatever beta; Var[y_j] = m (1 - m) / (beta sum(alpha) + 1) with
    m = E[y_j]. A small beta gives nearly one-hot rows, but the hot class is j in a share alpha_j /
    sum(alpha) of them, not always k.

    Args:
        alpha: ``(K,)``, one row of :func:`concentrations`.
        beta: above 0.
        n: number of draws.
        random: random generator of numpy, since torch's Dirichlet takes no generator.
    """
    if n == 0:
        return torch.zeros(0, len(alpha))
    drawn = torch.from_numpy(random.dirichlet(scaled(alpha, beta).numpy(), n))
    return (drawn / drawn.sum(1, keepdim=True)).float()


def shares(images: int, classes: int, betas: Sequence[float]) -> list[tuple[int, float, int]]:
    """(class, beta, number of images): an equal share for each pair.

    A remainder goes to the first classes of the first beta, so counts of classes differ by at most
    one.
    """
    pairs = [(k, beta) for beta in betas for k in range(classes)]
    each, left = divmod(images, len(pairs))
    return [(k, beta, each + (number < left)) for number, (k, beta) in enumerate(pairs)]


def all_soft_labels(
    weight: torch.Tensor, images: int, betas: Sequence[float], random: np.random.Generator
) -> torch.Tensor:
    """Soft labels of a whole set, float32 ``(images, K)``, in random order.

    So each batch has several classes.
    """
    alpha = concentrations(class_similarity(weight)).cpu()
    parts = [soft_labels(alpha[k], beta, n, random) for k, beta, n in shares(images, len(alpha), betas)]
    return torch.cat(parts)[torch.from_numpy(random.permutation(images))]

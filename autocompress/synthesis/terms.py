"""Terms of an objective on pixels, shared by the methods that make images from a teacher.

Scales are those of the papers. Some terms are averages and some are norms of the whole batch, so
published weights fit only near the published batch size and resolution. Source: Yin et al.,
DeepInversion, CVPR 2020, and its official code where the paper has no detail.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from autocompress.synthesis.view import Term, View

_LOWEST_LOG = -1e4
"""Replaces log 0: its exponential is 0, and its product with 0 is 0."""


def class_loss(view: View) -> torch.Tensor:
    """Cross-entropy of the outputs of the teacher with the labels, mean over the batch."""
    return F.cross_entropy(view.logits, _targets(view, "labels"))


def soft_target_loss(temperature: float) -> Term:
    """Batch mean of the cross-entropy of ``softmax(logits / temperature)`` with soft targets.

    The targets are ``(B, K)``.
    """

    def loss(view: View) -> torch.Tensor:
        return F.cross_entropy(view.logits / temperature, _targets(view, "soft targets").to(view.logits.dtype))

    return loss


def _targets(view: View, what: str) -> torch.Tensor:
    if view.targets is None:
        raise ValueError(f"this objective needs {what}")
    return view.targets


def total_variation(form: Literal["l2", "l1"] = "l2") -> Term:
    """Differences of neighbouring pixels: to the right, below, and along both diagonals.

    Args:
        form: "l2", the sum of the four Frobenius norms, each of the whole batch (it grows with the
            square root of the batch), or "l1", the sum of the four mean absolute differences.
    """

    def variation(view: View) -> torch.Tensor:
        x = view.images
        differences = (
            x[..., :, :-1] - x[..., :, 1:],
            x[..., :-1, :] - x[..., 1:, :],
            x[..., 1:, :-1] - x[..., :-1, 1:],
            x[..., :-1, :-1] - x[..., 1:, 1:],
        )
        # An image of one row or column has no such neighbours, and the mean of nothing is NaN.
        sizes = [torch.linalg.vector_norm(d) if form == "l2" else d.abs().mean() for d in differences if d.numel()]
        return torch.stack(sizes).sum() if sizes else x.sum() * 0

    return variation


def image_norm(view: View) -> torch.Tensor:
    """Mean of the l2 norms (not squared) of the images of the batch."""
    return torch.linalg.vector_norm(view.images.flatten(1), dim=1).mean()


def feature_distance(first_multiplier: float = 1.0) -> Term:
    """R_feature: distance of the input statistics of batch norms from the recorded statistics.

    It is the sum over batch norms l of ||mean_l - running_mean_l||_2 + ||variance_l -
    running_var_l||_2. The norms are neither squared nor divided by the number of channels, so wide
    layers have more weight.

    Args:
        first_multiplier: factor of the first batch norm. The paper has 1; the official code later
            used 10 for better colours.
    """

    def distance(view: View) -> torch.Tensor:
        if not view.norms:
            raise ValueError("there is no batch norm to compare statistics with")
        layers = [
            torch.linalg.vector_norm(norm.mean - norm.reference_mean)
            + torch.linalg.vector_norm(norm.variance - norm.reference_variance)
            for norm in view.norms
        ]
        layers[0] = layers[0] * first_multiplier
        return torch.stack(layers).sum()

    return distance


def competition(temperature: float = 3.0) -> Term:
    """1 - JS(teacher, student) at ``temperature``, mean over the batch; small if they disagree.

    The value is between 1 - ln 2 and 1. JS is the exact Jensen-Shannon divergence. The official
    code differs: it has KL(m || p) in place of KL(p || m), on clamped probabilities. This has no
    upper bound, so the code clips it at 1, where the gradient vanishes.
    """

    def loss(view: View) -> torch.Tensor:
        if view.student_logits is None:
            raise ValueError("competition needs a student")
        logs = [F.log_softmax(logits / temperature, 1) for logits in (view.logits, view.student_logits)]
        return 1 - jensen_shannon(*logs).mean()

    return loss


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of each row, in nats.

    JS(p, q) = 1/2 [KL(p || m) + KL(q || m)] with m = (p + q) / 2.

    Args:
        log_p, log_q: log-probabilities ``(..., K)``.

    Returns:
        ``(...)``, from 0 to ln 2.
    """
    log_p, log_q = log_p.clamp_min(_LOWEST_LOG), log_q.clamp_min(_LOWEST_LOG)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)

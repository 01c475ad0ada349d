"""Terms of an objective on pixels, shared by the methods that make images from a teacher.

Scales are the papers': some are averages, some norms of the whole batch, so published weights hold
near the published batch size and resolution only (Yin et al., DeepInversion, CVPR 2020, and its
official code, where the paper is silent).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from autocompress.synthesis.view import Term, View

_LOWEST_LOG = -1e4
"""In place of log 0: its exponential is 0, and 0 times it is 0."""


def class_loss(view: View) -> torch.Tensor:
    """Cross-entropy of the teacher to the labels, mean over the batch."""
    return F.cross_entropy(view.logits, _targets(view, "labels"))


def soft_target_loss(temperature: float) -> Term:
    """Cross-entropy of ``softmax(logits / temperature)`` to soft targets ``(B, K)``, mean over the
    batch.
    """

    def loss(view: View) -> torch.Tensor:
        return F.cross_entropy(view.logits / temperature, _targets(view, "soft targets").to(view.logits.dtype))

    return loss


def _targets(view: View, what: str) -> torch.Tensor:
    if view.targets is None:
        raise ValueError(f"this objective needs {what}, and there are none")
    return view.targets


def total_variation(form: Literal["l2", "l1"] = "l2") -> Term:
    """How much neighbours differ: to the right, below, and along both diagonals.

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
        # An image of one row or column has no neighbours there, and the mean of nothing is not a
        # number.
        sizes = [torch.linalg.vector_norm(d) if form == "l2" else d.abs().mean() for d in differences if d.numel()]
        return torch.stack(sizes).sum() if sizes else x.sum() * 0

    return variation


def image_norm(view: View) -> torch.Tensor:
    """Mean over the batch of each image's l2 norm (not squared)."""
    return torch.linalg.vector_norm(view.images.flatten(1), dim=1).mean()


def feature_distance(first_multiplier: float = 1.0) -> Term:
    """R_feature: over all batch norms l the sum of ||mean_l - running_mean_l||_2 + ||variance_l -
    running_var_l||_2.

    Plain norms, neither squared nor divided by the number of channels: wide layers weigh more.

    Args:
        first_multiplier: of the first batch norm. The official code came to use 10 for better
            colours; the paper 1.
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
    """1 - JS of teacher and student, both at ``temperature``, mean over the batch: small where the
    two disagree.

    Between 1 - ln 2 and 1. The official code takes KL divergences the other way round, of clamped
    probabilities, which has no bound and is cut off at 1, where there is no gradient left; this is
    the Jensen-Shannon divergence itself.
    """

    def loss(view: View) -> torch.Tensor:
        if view.student_logits is None:
            raise ValueError("competition needs a student")
        logs = [F.log_softmax(logits / temperature, 1) for logits in (view.logits, view.student_logits)]
        return 1 - jensen_shannon(*logs).mean()

    return loss


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of each row, in nats: (..., K) log-probabilities in, (...) between
    0 and ln 2 out.

    JS(p, q) = 1/2 [KL(p || m) + KL(q || m)] with m = (p + q) / 2.
    """
    log_p, log_q = log_p.clamp_min(_LOWEST_LOG), log_q.clamp_min(_LOWEST_LOG)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)

"""The formulas of the losses and divergences of the built-in tasks.

Logits are float tensors with images first. ``training/distilling.py`` mixes a loss with
distillation by the weight of the job.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# --- one class for each image ---------------------------------------------------------------------


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """The mean cross-entropy, scalar.

    Args:
        logits: ``(N, classes)``.
        targets: classes, int64 ``(N,)``, or probabilities, float32 ``(N, classes)``.
        smoothing: label smoothing, 0 to 1.
    """
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def sampled_cross_entropy(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The summed cross-entropy of classes that are drawn from the softmax of ``logits``, scalar."""
    chances = logits.detach().softmax(1).cpu()
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)
    return F.cross_entropy(logits, labels, reduction="sum")


def kl_divergences(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(reference) || softmax(logits)) of each image in nats, ``(N,)``."""
    expected, got = reference.log_softmax(1), logits.log_softmax(1)
    return (expected.exp() * (expected - got)).sum(1)


def total_kl_divergence(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The sum of :func:`kl_divergences`, scalar."""
    expected, got = reference.log_softmax(1), logits.log_softmax(1)
    return F.kl_div(got, expected, reduction="sum", log_target=True)


def soft_log_probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities at ``temperature``, float32 ``(N, classes)``."""
    return F.log_softmax(logits.float() / temperature, 1)


def distillation_kl(logits: torch.Tensor, log_teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student), the mean over the batch; Hinton et al., 2015, section 2.

    Args:
        logits: logits of the student, ``(N, classes)``.
        log_teacher: log-probabilities of the teacher at ``temperature``, ``(N, classes)``.
        temperature: T.
    """
    log_student = F.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


# --- any number of labels for each image ----------------------------------------------------------


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The binary cross-entropy, the mean over images and labels, scalar.

    Args:
        logits: ``(N, labels)``.
        targets: 0 or 1 for each label, ``(N, labels)``.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.float())


def sampled_binary_cross_entropy(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The summed binary cross-entropy of labels that are drawn from the sigmoid of ``logits``."""
    labels = torch.bernoulli(logits.detach().sigmoid().cpu(), generator=generator).to(logits.device)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


def bernoulli_kl_divergences(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The mean KL divergence of the Bernoulli distributions of the labels in nats, ``(N,)``."""
    chance = reference.sigmoid()
    found = chance * (F.logsigmoid(reference) - F.logsigmoid(logits))
    found = found + (1 - chance) * (F.logsigmoid(-reference) - F.logsigmoid(-logits))
    return found.mean(1)


# --- outputs with normal noise --------------------------------------------------------------------


def sampled_normal(outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A scalar with the gradient of the summed negative log-likelihood of drawn targets.

    The targets are ``outputs - noise``, and the noise is normal with variance 1.
    """
    noise = torch.randn(outputs.shape, generator=generator).to(outputs.device, outputs.dtype)
    return (noise * outputs).sum()

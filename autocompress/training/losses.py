"""Losses of a student: with labels, with outputs of a teacher, or with both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SoftTargets:
    """Stored targets, which replace a teacher.

    Attributes:
        values: logits, or probabilities at ``temperature``; float32 ``(N, classes)``, in the order
            of the split.
        temperature: for probabilities; for logits, the temperature of the settings is used.
    """

    values: torch.Tensor
    temperature: float = 1.0

    @property
    def are_probabilities(self) -> bool:
        """Whether all rows are non-negative and sum to one."""
        values = self.values
        return bool((values >= 0).all()) and torch.allclose(values.sum(1), torch.ones(len(values)), atol=1e-3)


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of a teacher for a batch, ``(N, classes)``, and their temperature."""

    log_probabilities: torch.Tensor
    temperature: float


def answers_of(teacher_logits: torch.Tensor, temperature: float) -> Answers:
    """Log-probabilities of logits ``(N, classes)`` at ``temperature``."""
    return Answers(F.log_softmax(teacher_logits.float() / temperature, 1), temperature)


def distillation(
    outputs: torch.Tensor,
    labels: torch.Tensor | None,
    answers: Answers | None,
    weight: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """(1 - a) CE + a T^2 KL(teacher || student), where a is ``weight``.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        outputs: logits of the student, float32 ``(N, classes)``.
        labels: int64 ``(N,)``, or shares of the classes, float32 ``(N, classes)``; None uses only
            the teacher.
        answers: of the teacher; None uses only the labels.
        weight: of the teacher, 0 to 1.
        label_smoothing: of the cross-entropy.

    Returns:
        The mean over the batch, scalar.
    """
    if answers is None:
        assert labels is not None
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    log_student = F.log_softmax(outputs / answers.temperature, 1)
    soft = F.kl_div(log_student, answers.log_probabilities, reduction="batchmean", log_target=True)
    soft = answers.temperature**2 * soft
    if labels is None:
        return soft
    hard = F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    return (1 - weight) * hard + weight * soft

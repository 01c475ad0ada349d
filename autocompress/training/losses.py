"""What a student learns from: labels, a teacher's answers, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SoftTargets:
    """Targets stored beside the images, in place of a teacher.

    Attributes:
        values: float32 ``(N, classes)``, in the split's order: logits, or probabilities made at
            ``temperature``.
        temperature: used for probabilities; logits take the settings' own.
    """

    values: torch.Tensor
    temperature: float = 1.0

    @property
    def are_probabilities(self) -> bool:
        """Rows that are not negative and sum to one."""
        values = self.values
        return bool((values >= 0).all()) and torch.allclose(values.sum(1), torch.ones(len(values)), atol=1e-3)


@dataclass(frozen=True)
class Answers:
    """A teacher's log-probabilities ``(N, classes)`` for a batch, and their temperature."""

    log_probabilities: torch.Tensor
    temperature: float


def answers_of(teacher_logits: torch.Tensor, temperature: float) -> Answers:
    """Softens logits ``(N, classes)`` by ``temperature``."""
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
        outputs: the student's logits, float32 ``(N, classes)``.
        labels: int64 ``(N,)``; None where they mean nothing, then only the teacher counts.
        answers: the teacher's; None for none, then only the labels count.
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

"""The loss of a student from labels, from outputs of a teacher, or from both.

The formulas are those of the task (``task/losses.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autocompress.task import Classification, Task

_CLASSES = Classification()


@dataclass(frozen=True)
class SoftTargets:
    """Stored targets, which replace a teacher.

    Attributes:
        values: outputs, or probabilities at ``temperature``; float32 ``(N, ...)``, in the order of
            the split.
        temperature: temperature of probabilities; for outputs, that of the settings is used.
    """

    values: torch.Tensor
    temperature: float = 1.0

    @property
    def are_probabilities(self) -> bool:
        """Whether all rows are non-negative and sum to one."""
        values = self.values
        return (
            values.ndim == 2
            and bool((values >= 0).all())
            and torch.allclose(values.sum(1), torch.ones(len(values)), atol=1e-3)
        )


@dataclass(frozen=True)
class Answers:
    """The outputs of a teacher for a batch, ``(N, ...)``, and their temperature.

    For classes, these are log-probabilities, ``(N, classes)``; else those of :meth:`Task.answers`.
    """

    values: torch.Tensor
    temperature: float


def answers_of(teacher_outputs: torch.Tensor, temperature: float, task: Task = _CLASSES) -> Answers:
    """The answers of a teacher with these outputs: for classes, log-probabilities of logits."""
    return Answers(task.answers(teacher_outputs, temperature), temperature)


def distillation(
    outputs: torch.Tensor,
    labels: torch.Tensor | None,
    answers: Answers | None,
    weight: float,
    label_smoothing: float = 0.0,
    task: Task = _CLASSES,
) -> torch.Tensor:
    """(1 - a) CE + a T^2 KL(teacher || student), where a is ``weight``.

    Tasks other than classification have their own loss and divergence instead of CE and KL.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        outputs: outputs of the student, float32; logits ``(N, classes)`` for classes.
        labels: int64 ``(N,)``, or shares of the classes, float32 ``(N, classes)``; None uses only
            the teacher.
        answers: answers of the teacher; None uses only the labels.
        weight: weight of the teacher, 0 to 1.
        label_smoothing: label smoothing of the cross-entropy.
        task: task that computes the losses.

    Returns:
        The mean over the batch, scalar.
    """
    if answers is None:
        assert labels is not None
        return task.smoothed_loss(outputs, labels, label_smoothing)
    soft = task.distillation(outputs, answers.values, answers.temperature)
    if labels is None:
        return soft
    hard = task.smoothed_loss(outputs, labels, label_smoothing)
    return (1 - weight) * hard + weight * soft

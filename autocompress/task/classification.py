"""Classification: one class for each image. The default task."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from autocompress.objectives.intervals import Interval, paired_difference
from autocompress.task.task import Task


class Classification(Task):
    """Targets are classes, int64 ``(N,)``; outputs are logits ``(N, classes)``.

    The loss is the cross-entropy. The metric is the share of images whose class has the largest
    logit.
    """

    metric_name: ClassVar[str] = "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Targets may also be probabilities of the classes, float32 ``(N, classes)``."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whether each image is classified correctly, bool ``(N,)``.

        An image with NaN or infinite logits is not.
        """
        return (outputs.argmax(1) == targets) & outputs.isfinite().all(1)

    def interval(self, candidate: np.ndarray, baseline: np.ndarray) -> Interval:
        return paired_difference(candidate, baseline)

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """KL(softmax(reference) || softmax(outputs)) in nats."""
        expected, got = reference.log_softmax(1), outputs.log_softmax(1)
        return (expected.exp() * (expected - got)).sum(1)

    def total_divergence(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        expected, got = reference.log_softmax(1), outputs.log_softmax(1)
        return F.kl_div(got, expected, reduction="sum", log_target=True)

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def answers(self, outputs: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities at ``temperature``."""
        return F.log_softmax(outputs.float() / temperature, 1)

    def distillation(self, outputs: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
        """T^2 KL(teacher || student); Hinton et al., 2015, section 2."""
        log_student = F.log_softmax(outputs / temperature, 1)
        return temperature**2 * F.kl_div(log_student, answers, reduction="batchmean", log_target=True)

    def sampled_loss(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        chances = outputs.detach().softmax(1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(outputs.device)
        return F.cross_entropy(outputs, labels, reduction="sum")

    def uninformed_loss(self, classes: int) -> float:
        """The loss if all classes have equal probabilities."""
        return math.log(classes)

    def output_shape(self, classes: int) -> tuple[int, ...]:
        return (classes,)

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        del classes
        if targets.ndim != 1 or targets.is_floating_point():
            return f"needs one class for each image, and the labels are {targets.dtype} {tuple(targets.shape)}"
        return ""

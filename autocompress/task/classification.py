"""Classification: one class for each image. The default task."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch

from autocompress.objectives.intervals import Interval, paired_difference
from autocompress.task import losses
from autocompress.task.task import Task


class Classification(Task):
    """Targets are classes, int64 ``(N,)``; outputs are logits ``(N, classes)``.

    The loss is the cross-entropy. The metric is the share of images whose class has the largest
    logit.
    """

    metric_name: ClassVar[str] = "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return losses.cross_entropy(outputs, targets)

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Targets may also be probabilities of the classes, float32 ``(N, classes)``."""
        return losses.cross_entropy(outputs, targets, smoothing)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whether each image is classified correctly, bool ``(N,)``.

        An image with NaN or infinite logits is not.
        """
        return (outputs.argmax(1) == targets) & outputs.isfinite().all(1)

    def interval(self, candidate: np.ndarray, baseline: np.ndarray) -> Interval:
        return paired_difference(candidate, baseline)

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """KL(softmax(reference) || softmax(outputs)) in nats."""
        return losses.kl_divergences(reference, outputs)

    def total_divergence(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return losses.total_kl_divergence(reference, outputs)

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def answers(self, outputs: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities at ``temperature``."""
        return losses.soft_log_probabilities(outputs, temperature)

    def distillation(self, outputs: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
        """T^2 KL(teacher || student); Hinton et al., 2015, section 2."""
        return losses.distillation_kl(outputs, answers, temperature)

    def sampled_loss(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return losses.sampled_cross_entropy(outputs, generator)

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

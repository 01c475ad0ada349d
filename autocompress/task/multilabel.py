"""Multilabel: any number of labels for each image."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch

from autocompress.task import losses
from autocompress.task.task import Task


class Multilabel(Task):
    """Targets are 0 or 1 for each label, float32 ``(N, labels)``; outputs are logits of that shape.

    The loss is the binary cross-entropy, the mean over images and labels. The metric is the mean
    average precision: the average precision of each label over all images (as
    ``sklearn.metrics.average_precision_score``, ``average="macro"``), averaged over the labels that
    at least one image has. The divergence is the mean Kullback-Leibler divergence of the Bernoulli
    distributions of the labels.

    Args:
        threshold: the probability above which a label is predicted. It is used for the agreement
            of two models, not for the metric.
    """

    metric_name: ClassVar[str] = "mean average precision"

    def __init__(self, threshold: float = 0.5) -> None:
        if not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, not {threshold!r}")
        self._logit = math.log(threshold / (1 - threshold))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return losses.binary_cross_entropy(outputs, targets)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The logits and the targets of each image, float32 ``(N, 2 * labels)``."""
        return torch.cat([outputs.float(), targets.float()], 1)

    def metric(self, marks: np.ndarray) -> float:
        """The mean average precision in percent; NaN if no image has a label."""
        labels = marks.shape[1] // 2
        found = [average_precision(marks[:, one], marks[:, labels + one] > 0.5) for one in range(labels)]
        known = [value for value in found if not math.isnan(value)]
        return 100.0 * sum(known) / len(known) if known else math.nan

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return losses.bernoulli_kl_divergences(reference, outputs)

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        """Whether each label is predicted, int64 ``(N, labels)``."""
        return (outputs > self._logit).to(torch.int64)

    def sampled_loss(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return losses.sampled_binary_cross_entropy(outputs, generator)

    def uninformed_loss(self, classes: int) -> float:
        """The loss if each label has the probability 0.5."""
        del classes
        return math.log(2)

    def output_shape(self, classes: int) -> tuple[int, ...]:
        return (classes,)

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        if targets.ndim != 2 or targets.shape[1] != classes:
            return f"needs 0 or 1 for each of {classes} labels, and the labels of the data are {_shape(targets)}"
        if not bool(((targets == 0) | (targets == 1)).all()):
            return "needs labels of 0 and 1, and the data have others"
        return ""


def _shape(targets: torch.Tensor) -> str:
    return "one class for each image" if targets.ndim == 1 else f"of shape {tuple(targets.shape)}"


def average_precision(scores: np.ndarray, wanted: np.ndarray) -> float:
    """The area under the steps of precision over recall, 0 to 1; NaN if no image is positive.

    Equal scores are one step, as in scikit-learn.

    Args:
        scores: ``(N,)``, higher is more certain.
        wanted: whether each image is positive, bool ``(N,)``.
    """
    positives = int(wanted.sum())
    if not positives:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each step
    hits = np.cumsum(wanted[order])[ends]
    gained = np.diff(hits, prepend=0) / positives
    return float((gained * hits / (ends + 1)).sum())

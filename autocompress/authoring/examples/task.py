"""A task: one class for each image, judged by balanced accuracy.

No entry point names it. A job does: ``task: FILE.py:Example``, or ``task: module:Example``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from autocompress.contract import Task


class Example(Task):
    """Targets are classes, int64 ``(N,)``; outputs are logits ``(N, classes)``."""

    metric_name: ClassVar[str] = "balanced accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The class of each image, and whether the network finds it, ``(N, 2)``."""
        return torch.stack([targets, (outputs.argmax(1) == targets).long()], 1)

    def metric(self, marks: np.ndarray) -> float:
        """The share of right images of each class in percent, averaged over the classes."""
        classes, right = marks.T
        return 100.0 * float(np.mean([right[classes == one].mean() for one in np.unique(classes)]))

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """KL divergence of the classes in nats."""
        expected, got = reference.log_softmax(1), outputs.log_softmax(1)
        return (expected.exp() * (expected - got)).sum(1)

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        return "" if targets.ndim == 1 and not targets.is_floating_point() else "needs one class for each image"

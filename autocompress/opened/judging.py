"""The metric of candidates, and agreement of their files with their torch models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from autocompress.compression.candidate import Candidate
from autocompress.compute import Compute
from autocompress.contract import Deployable
from autocompress.data import Scored, Splits
from autocompress.export import AGREEMENT_IMAGES, Agreement, check_agreement
from autocompress.job import Job
from autocompress.scoring import Scorer, images_between_pauses
from autocompress.training import evaluate

SLOW_BATCH = 8
"""Images per batch for a file that runs slowly."""


@dataclass(frozen=True)
class Judge:
    """Scores candidates of a job.

    Attributes:
        job: job of the search.
        input_size: input size of the baseline.
        splits: data splits of the job; trials are judged on ``val``.
        compute: where and how torch models are scored.
    """

    job: Job
    input_size: tuple[int, int, int]
    splits: Splits
    compute: Compute

    def accuracy(
        self, deployable: Deployable, split: Scored, pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        """See :meth:`OpenedJob.accuracy`."""
        if split == "val" and self.compute.is_cuda and deployable.module is not None:
            return self.model_accuracy(deployable.model(), pause)
        splits = self.splits
        chosen = splits.test if split == "test" else splits.val
        if split == "whole_val" and splits.whole_val is not None:
            chosen = splits.whole_val
        marks = Scorer.of(self.job).score(deployable, chosen, pause=pause)
        return chosen.task.metric(marks), marks

    def model_accuracy(self, model: nn.Module, pause: Callable[[], None] | None = None) -> tuple[float, np.ndarray]:
        """Accuracy of a torch model on validation, in float32, on the GPU if there is one."""
        batch = images_between_pauses(self.input_size)
        found = evaluate(model, self.splits.val, self.compute.device, batch, pause)
        model.cpu()
        return found

    def agreement(
        self, candidate: Candidate, deployable: Deployable, pause: Callable[[], None] | None = None
    ) -> Agreement:
        """See :meth:`OpenedJob.agreement`."""
        some = self.splits.val.subset(AGREEMENT_IMAGES, self.job.seed)
        images, _ = next(iter(some.loader(AGREEMENT_IMAGES)))
        # A slow file also needs much memory per image.
        batch = SLOW_BATCH if candidate.slow else images_between_pauses(deployable.input_size)
        return check_agreement(
            deployable.file, candidate.model, images, batch_size=batch, pause=pause, task=self.splits.val.task
        )

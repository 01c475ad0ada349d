"""Mixup and CutMix: images of a batch, and their labels, mixed by the settings of the job."""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup

from autocompress.data import Split
from autocompress.data.randomness import random_kept


class Mixing:
    """Mixes batches (Zhang et al., 2018; Yun et al., 2019), by timm.

    Args:
        mixup, cutmix: alpha of the beta distributions.
        classes: number of classes.
        seed: random seed of the training.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seed: int) -> None:
        self._mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)
        self._classes, self._seed = classes, seed

    @classmethod
    def of(cls, split: Split, seed: int) -> Mixing | None:
        """The mixing of the job for these training images; None if the job has no mixing."""
        asked = split.info.augment
        if asked is None or not (asked.mixup or asked.cutmix) or not split.info.task.is_classification:
            return None
        return cls(asked.mixup, asked.cutmix, split.num_classes, seed)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed images and their labels as shares of classes, float32 ``(N, classes)``.

        Of an odd number of images, the last one stays as it is.

        Args:
            images: ``(N, C, H, W)``.
            labels: int64 ``(N,)``.
            step: step of the training, which decides what is drawn.
        """
        even = len(images) // 2 * 2
        whole = torch.nn.functional.one_hot(labels, self._classes).float()
        if not even:
            return images, whole
        with random_kept():
            np.random.seed((self._seed * 7_919 + step) % 2**32)
            mixed, shares = self._mix(images[:even].clone(), labels[:even])
        return torch.cat([mixed, images[even:]]), torch.cat([shares.float(), whole[even:]])

"""Settings and results of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autocompress.training.optimizing import Schedule

Progress = Callable[[float, str], None]
"""Called with the finished fraction, 0 to 1, and a text."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training.

    Attributes:
        epochs: passes over the split; a fraction ends within an epoch.
        accumulate: batches whose gradients are added up for one step; a step has ``accumulate``
            times ``batch_size`` images.
        ema: decay of a moving average of the weights, which replaces them at the end; 0 for none.
        least_steps: minimum number of steps; small splits get more epochs than ``epochs`` to reach
            it.
        lr: the highest learning rate.
        distill: weight of the targets of the teacher, 0 to 1; 0 without a teacher.
        temperature: temperature of the distillation (Hinton et al., 2015).
        clip: largest gradient norm; 0 for no clipping.
        augment: images are augmented.
        label_smoothing: label smoothing of the cross-entropy.
    """

    epochs: float = 1.0
    lr: float = 2e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Schedule = "one_cycle"
    batch_size: int = 128
    weight_decay: float = 0.05
    distill: float = 0.0
    temperature: float = 4.0
    clip: float = 1.0
    augment: bool = True
    label_smoothing: float = 0.0
    least_steps: int = 0
    accumulate: int = 1
    ema: float = 0.0


@dataclass(frozen=True)
class TrainResult:
    """Result of a training: steps, mean loss of the last epoch (NaN without a step), seconds."""

    steps: int
    loss: float
    seconds: float

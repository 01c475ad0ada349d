"""Training and judging torch models; the engine, plugins and benchmarks use the same loop.

``loop`` is the training loop, with ``optimizing`` (optimizer groups, schedules), ``losses`` (labels
and distillation) and ``taps`` (outputs of inner modules for callbacks). ``trainer`` trains a model,
or a baseline that is kept, and ``recovery`` a compressed one. ``evaluation`` gives logits and
accuracy, and recalibrates batch norms. ``computing`` tells how torch computes, which is part of
every content key. ``threads`` tells how many of them pay.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.training.computing import computed_with, half_precision, versions
from autocompress.training.evaluation import evaluate, logits, recalibrate_batch_norm
from autocompress.training.loop import Progress, Training, TrainResult, TrainSettings
from autocompress.training.losses import SoftTargets, answers_of, distillation
from autocompress.training.optimizing import clipped_parameters, make_optimizer, parameter_groups
from autocompress.training.recovery import recover
from autocompress.training.threads import limit_threads
from autocompress.training.trainer import (
    baseline_settings,
    default_device,
    require_training_images,
    train,
    train_baseline,
)

__all__ = [
    "Progress",
    "SoftTargets",
    "TrainResult",
    "TrainSettings",
    "Training",
    "answers_of",
    "baseline_settings",
    "clipped_parameters",
    "computed_with",
    "default_device",
    "distillation",
    "evaluate",
    "half_precision",
    "limit_threads",
    "logits",
    "make_optimizer",
    "parameter_groups",
    "recalibrate_batch_norm",
    "recover",
    "require_training_images",
    "train",
    "train_baseline",
    "versions",
]

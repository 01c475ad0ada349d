"""Training and evaluation of torch models, for the engine, plugins and benchmarks.

- ``loop``: the training loop.
- ``optimizing``: optimizer groups and schedules.
- ``distilling``: mixes the loss of the task with distillation from a teacher.
- ``taps``: outputs of inner modules for callbacks.
- ``checkpoint``: saved trainings, which continue after a kill.
- ``trainer``: trains a model, or a baseline that is stored.
- ``recovery``: trains a compressed model.
- ``layout``: memory formats, and which is faster.
- ``evaluation``: logits, accuracy, and recalibration of batch norms.
- ``computing``: versions and settings of torch for content keys.
- ``threads``: the number of threads of torch.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.compute import Compute, compute_of, default_device, half_precision
from autocompress.training.checkpoint import Checkpoint
from autocompress.training.computing import computed_with, versions
from autocompress.training.distilling import SoftTargets, answers_of, distillation
from autocompress.training.evaluation import evaluate, logits, predictions, recalibrate_batch_norm
from autocompress.training.loop import Training
from autocompress.training.optimizing import clipped_parameters, make_optimizer, parameter_groups
from autocompress.training.recovery import batch_size, recover
from autocompress.training.settings import Progress, TrainResult, TrainSettings
from autocompress.training.threads import limit_threads
from autocompress.training.trainer import (
    baseline_settings,
    require_training_images,
    train,
    train_baseline,
)

__all__ = [
    "Checkpoint",
    "Compute",
    "Progress",
    "SoftTargets",
    "TrainResult",
    "TrainSettings",
    "Training",
    "answers_of",
    "baseline_settings",
    "batch_size",
    "clipped_parameters",
    "compute_of",
    "computed_with",
    "default_device",
    "distillation",
    "evaluate",
    "half_precision",
    "limit_threads",
    "logits",
    "make_optimizer",
    "parameter_groups",
    "predictions",
    "recalibrate_batch_norm",
    "recover",
    "require_training_images",
    "train",
    "train_baseline",
    "versions",
]

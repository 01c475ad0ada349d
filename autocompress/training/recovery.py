"""RECOVER: training with distillation from the baseline, between PRUNE and QUANTIZE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autocompress.contract import Callback, Context, Params, TransferSet
from autocompress.training.checkpoint import Checkpoint
from autocompress.training.distilling import SoftTargets
from autocompress.training.joining import joined
from autocompress.training.loop import Training
from autocompress.training.settings import TrainSettings

VERSION = "2"
BATCH_SIZE = 128
SMALLEST_BATCH = 32
STEPS = 32
"""Minimum number of steps per epoch. Recovery is short, so small data sets get smaller batches."""


def recover(
    model: nn.Module,
    params: Params,
    context: Context,
    callbacks: Sequence[Callback],
    *,
    pause: Callable[[], None] | None = None,
    again: Callable[[nn.Module], TransferSet] | None = None,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Trains ``model`` on the transfer set of the context, and returns it in eval mode.

    Args:
        model: trained in place.
        params: ``epochs``, ``lr`` and ``distill`` of the recipe; those of a rung also have
            ``least_steps``, ``batch_size`` and ``augment``.
        context: context with the images and the teacher.
        callbacks: callbacks of all methods that were applied.
        pause: called between batches.
        again: makes images for the student, for a data source that adapts. It is called after the
            first half of the epochs. The second half draws from old and new images, with as many
            images per epoch as before. It is not called with a single epoch.
        checkpoint: checkpoint of a training without ``again``.

    Raises:
        TrialFailed: if the loss is not finite.
    """
    assert context.transfer is not None
    transfer = context.transfer
    settings = TrainSettings(
        epochs=params["epochs"],
        lr=params["lr"],
        distill=params["distill"],
        batch_size=params.get("batch_size") or batch_size(len(transfer.train)),
        least_steps=params.get("least_steps", 0),
        augment=params.get("augment", True),
    )
    training = Training(
        model,
        transfer.train,
        settings,
        teacher=context.teacher,
        callbacks=callbacks,
        compute=context.compute,
        seed=context.seed,
        progress=context.progress,
        pause=pause,
        freeze_batch_norm="freeze_batch_norm" in transfer.demands,
        soft_targets=_soft(transfer),
        labelled=transfer.labelled,
        checkpoint=checkpoint,
    )
    if again is not None and (half := int(params["epochs"]) // 2):
        training.run(until=half)
        transfer = joined(transfer, again(model))
        training.draw_from(transfer.train, _soft(transfer))
    training.run()
    return model.eval()


def batch_size(images: int) -> int:
    """The batch size of a recovery on this number of images, unless ``params`` has one."""
    return min(BATCH_SIZE, max(SMALLEST_BATCH, images // STEPS))


def _soft(transfer: TransferSet) -> SoftTargets | None:
    return None if transfer.soft_targets is None else SoftTargets(transfer.soft_targets, transfer.temperature)

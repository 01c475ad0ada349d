"""Whether the batches that a job asks for can train its model; asked before anything is trained."""

from __future__ import annotations

from torch import nn

from autocompress import models
from autocompress.data import Splits
from autocompress.errors import UserError
from autocompress.job import Job


def check_batches(job: Job, model: nn.Module, splits: Splits) -> None:
    """Refuses batches of one image where the batch norm of ``model`` needs more.

    Raises:
        UserError: naming ``baseline.batch_size``, or the number of training images.
    """
    is_single = job.baseline.batch_size == 1 and models.needs_training(job, splits.info)
    if len(splits.train) != 1 and not (is_single and len(splits.train)):
        return
    if models.trains_on_one_image(model, splits.info.input_size):
        return
    if len(splits.train) == 1:
        held_out = f"{len(splits.val):,} for validation, {len(splits.test):,} for the test"
        raise UserError(
            f"1 image is left to train on ({held_out}), but the batch norm of '{job.model}' needs at least 2",
            "give more images",
        )
    raise job.source.error(
        "baseline.batch_size", f"cannot be 1: the batch norm of '{job.model}' needs at least 2 images", "give 2 or more"
    )

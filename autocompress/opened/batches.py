"""Checks before training that the batches of the job are valid and fit into memory."""

from __future__ import annotations

import math

import psutil
from torch import nn

from autocompress import models
from autocompress.contract import Device
from autocompress.data import Splits
from autocompress.errors import UserError
from autocompress.graph import UntraceableModel, facts
from autocompress.job import Job

FLOAT_BYTES = 4


def check_batches(job: Job, model: nn.Module, splits: Splits) -> None:
    """Refuses batches of one image if a batch norm of ``model`` needs more.

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
            f"1 image is left for training ({held_out}), but the batch norm of '{job.model}' needs at least 2",
            "give more images",
        )
    raise job.source.error(
        "baseline.batch_size", f"cannot be 1: the batch norm of '{job.model}' needs at least 2 images", "give 2 or more"
    )


def check_measured_batch(job: Job, device: Device, model: nn.Module) -> None:
    """Refuses batches for which ``device`` certainly has too little memory.

    The estimate is a lower bound: the input and output of the largest layer of the float model.

    Raises:
        UserError: naming the batch, and the needed and free memory.
    """
    batch = job.device.batch
    if batch == 1 or device.deterministic:  # cost models run nothing
        return
    size = models.input_size(model)
    values = math.prod(size)
    try:
        layers = facts(model, size).layers.values()
        values = max([values, *(math.prod(layer.input_shape) + math.prod(layer.output_shape) for layer in layers)])
    except UntraceableModel:
        pass
    needed, free = batch * values * FLOAT_BYTES, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"there is not enough memory for batches of {batch}: one layer of '{job.model}' needs at least "
            f"{needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free",
            "lower the batch, or input_size",
        )

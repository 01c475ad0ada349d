"""Decides where and how torch computes an opened job: as the job says, or as measured."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from autocompress.compute import Compute, compute_of
from autocompress.job import Job
from autocompress.store import Store
from autocompress.training.layout import is_faster_last

SWITCH = "AUTOCOMPRESS_CHANNELS_LAST"
"""Environment variable: with ``off``, no memory format is timed, and ``auto`` is the default one.

Tests set it, because times differ between machines.
"""
log = logging.getLogger("autocompress")


def decided(job: Job, model: nn.Module, store: Store, pause: Callable[[], None] | None = None) -> tuple[Job, Compute]:
    """``job`` with its memory format decided, and its compute.

    The driver of a search decides and passes the job to its workers, so that all compute alike.

    Args:
        job: job with ``compute.channels_last`` true, false or auto.
        model: the network; not changed.
        store: store for the measured times.
        pause: called while another process measures.

    Raises:
        UserError: if this machine cannot compute as the job asks.
    """
    compute = compute_of(job.compute)
    if job.compute.channels_last != "auto":
        return job, compute
    found, trains = False, job.budget.epochs > 0 or not (job.pretrained or job.checkpoint)
    if trains and os.environ.get(SWITCH) != "off":
        try:
            found = is_faster_last(model, compute, store, pause)
        except Exception as error:  # a network may need its callbacks for a step, or more memory
            log.warning("memory formats could not be timed: %s: %s", type(error).__name__, error)
    config = job.compute.model_copy(update={"channels_last": found})
    return job.model_copy(update={"compute": config}), replace(compute, channels_last=found)

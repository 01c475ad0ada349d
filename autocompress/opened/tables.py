"""The tables of an opened job: sensitivity to bits, and proposals.

A search continues without them if they cannot be made.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

from autocompress import models
from autocompress.compression.pipeline import Pipeline
from autocompress.contract import Context, Method, Params
from autocompress.contract.raised import raised
from autocompress.devices.lock import MachineLock
from autocompress.errors import InvalidRecipe
from autocompress.proposals.proposer import NoProposals, Proposed, Proposer
from autocompress.proposals.tablemaker import TableMaker
from autocompress.recipes.jobspace import JobSpace
from autocompress.sensitivity import probing
from autocompress.sensitivity.table import Sensitivity, Setting, Width

Progress = Callable[[float, str], None]
log = logging.getLogger("autocompress.compression")


def sensitivity(
    space: JobSpace,
    pipeline: Pipeline,
    methods: Sequence[Method],
    offered: Callable[[JobSpace], tuple[list[Width], dict[str, Params]]],
    progress: Progress | None = None,
    pause: Callable[[], None] | None = None,
) -> list[Sensitivity]:
    """The sensitivity table (:func:`probing.kept`).

    It is empty after an error, if there is nothing to measure, or if there are no images.

    Args:
        space: space of the recipes.
        pipeline: pipeline of the job, with its baseline.
        methods: those that act.
        offered: the widths to measure, and parameters of their quantizers.
        progress: called with the finished fraction and a text.
        pause: called often.
    """
    widths, params = offered(space)
    transfer, model = pipeline.transfer, pipeline.baseline
    if not widths or transfer is None or not len(transfer.calibration):
        return []
    setting = Setting({method.name: method for method in methods}, params, pipeline.granularity, pipeline.table)
    teacher = copy.deepcopy(model).to(pipeline.compute.device)
    context = Context(models.input_size(model), transfer, teacher, compute=pipeline.compute, seed=pipeline.seed)
    lock, key = MachineLock(), pipeline.baseline_key
    breathe = both(lock.breathe, pause)
    try:
        with lock.shared():
            return probing.kept(pipeline.store, key, model, widths, setting, context, progress=progress, pause=breathe)
    except Exception as error:  # the table is optional
        log.warning("no sensitivity table: %s: %s", type(error).__name__, error)
        return []


def begin(maker: TableMaker) -> bool:
    """Starts a forked process that prepares proposals; returns whether there is one."""
    try:
        maker.begin()
    except Exception as error:  # if the error persists, :func:`propose` reports it
        log.info("probes could not be started early: %s: %s", type(error).__name__, error)
    return maker.helper is not None


def propose(
    maker: TableMaker, progress: Progress | None = None, pause: Callable[[], None] | None = None
) -> Proposed | None:
    """Recipes from measured tables.

    ``pause`` is called often. ``maker`` is ended.

    Raises:
        NoProposals: after an error, with the method that raised it.
    """
    maker.breathe = both(maker.lock.breathe, pause)
    if progress is not None:
        maker.progress = progress
    try:
        return Proposer(maker).propose()
    except InvalidRecipe as error:
        raise NoProposals(f"there are no proposals: {error}") from error
    except Exception as error:
        log.warning("no proposals", exc_info=error)
        raise NoProposals(f"there are no proposals: {raised(error)}") from error
    finally:
        maker.end()


def both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    """A function that calls both."""

    def call() -> None:
        first()
        if second is not None:
            second()

    return call

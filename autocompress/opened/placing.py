"""Finds where a device is faster with integers: measured costs of a job, and rows for reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autocompress import models
from autocompress.compression.layertypes import layer_specs
from autocompress.contract import Device, Method, Quantizer
from autocompress.integer_placement import MeasuredCosts, Placer, paying
from autocompress.integer_placement.files import Network
from autocompress.job import Job
from autocompress.opened.keys import measured_with
from autocompress.store import Store

SWITCH = "AUTOCOMPRESS_PLACEMENT"
"""Environment variable: ``off`` switches timing of placements off.

Tests set it, because times differ between machines.
"""
log = logging.getLogger("autocompress")


def measured_costs(
    job: Job,
    device: Device,
    model: nn.Module,
    methods: Sequence[Method],
    store: Store,
    progress: Callable[[float, str], None] | None = None,
) -> MeasuredCosts | None:
    """The measured costs for placements of this job; None to use integers wherever possible.

    It is None if the job or the environment switches timing off, no method quantizes activations,
    the device is a cost model or has no profiler, or timing fails. Networks without grouped
    convolutions are not timed: in those that were measured, no file with layers in float was faster
    than the integer file (results/placement), and timing takes seconds before the first trial.

    Args:
        job: job of the search.
        device: measures latency.
        model: the float baseline.
        methods: the methods that act.
        store: where times are kept; workers find there what the first process has measured.
        progress: called with a text about the present work.
    """
    quantizes = any(isinstance(method, Quantizer) and method.activation_bits for method in methods)
    is_off = not job.search.placement or os.environ.get(SWITCH) == "off"
    if is_off or device.deterministic or not quantizes or not _has_grouped(model):
        return None
    placer = Placer(device, job.device, measured_with(device, job.device), store, progress)
    try:
        with store.making("where integers pay"):  # workers read the times that the first process has measured
            return placer.costs(_network(model, methods, device))
    except Exception as error:
        log.warning("layers in float and in integers were not timed: %s: %s", type(error).__name__, error)
        return None


def placement_rows(
    job: Job, device: Device, model: nn.Module, methods: Sequence[Method], costs: MeasuredCosts | None
) -> list[dict[str, Any]]:
    """For each region of the baseline: layer, group, operator, times in both forms, chosen form.

    Times are microseconds in float and in integers. The result is empty if nothing was measured,
    as where the runtime refuses the integer file.
    """
    if costs is None or not costs.patterns:
        return []
    groups = models.groups(model, job.granularity)
    regions = _network(model, methods, device).regions()
    return [
        {
            "layer": row.layer,
            "group": models.group_of(row.layer, groups),
            "operator": row.operator,
            "float_us": round(row.float_us, 1),
            "integer_us": round(row.integer_us, 1),
            "computes": row.computes,
        }
        for row in paying(regions, costs)
    ]


def _has_grouped(model: nn.Module) -> bool:
    """Whether ``model`` has grouped or depthwise convolutions."""
    return any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())


def _network(model: nn.Module, methods: Sequence[Method], device: Device) -> Network:
    return Network(model, models.input_size(model), layer_specs(methods), device.placement)

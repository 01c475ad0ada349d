"""Where the device computes on integers: costs measured for a job, and what to tell about them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autocompress import models
from autocompress.compression.layertypes import layer_specs
from autocompress.contract import Device, Method, Quantizer
from autocompress.job import Job
from autocompress.opened.keys import measured_with
from autocompress.store import Store
from autocompress.tuning import MeasuredCosts, Tuner, paying
from autocompress.tuning.files import Network

SWITCH = "AUTOCOMPRESS_PLACEMENT"
"""Environment variable: ``off`` keeps every process from timing placements. Tests set it, since
where integers pay is another matter on every machine."""
log = logging.getLogger("autocompress")


def measured_costs(
    job: Job,
    device: Device,
    model: nn.Module,
    methods: Sequence[Method],
    store: Store,
    progress: Callable[[float, str], None] | None = None,
) -> MeasuredCosts | None:
    """What placements of this job are chosen with; None where integers are used wherever they can.

    That is so where the job or the environment switches timing off, where no method quantizes
    activations, where the device is a cost model or cannot tell where time goes, and where timing
    fails: a search can do without. Networks without grouped convolutions are not timed: integers
    paid in every layer of those that were measured (results/placement), and timing takes seconds
    before the first trial.

    Args:
        job: of the search.
        device: that measures latency.
        model: the float baseline.
        methods: those that act.
        store: where times are kept; workers find there what the first process has measured.
        progress: told what is done.
    """
    quantizes = any(isinstance(method, Quantizer) and method.activation_bits for method in methods)
    is_off = not job.search.placement or os.environ.get(SWITCH) == "off"
    if is_off or device.deterministic or not quantizes or not _has_grouped(model):
        return None
    tuner = Tuner(device, job.device, measured_with(device, job.device), store, progress)
    try:
        with store.making("where integers pay"):  # workers find what the first of them has measured
            return tuner.costs(_network(model, methods, device))
    except Exception as error:
        log.warning("where integers pay was not measured: %s: %s", type(error).__name__, error)
        return None


def placement_rows(
    job: Job, device: Device, model: nn.Module, methods: Sequence[Method], costs: MeasuredCosts | None
) -> list[dict[str, Any]]:
    """For each layer of the baseline: group, operator, microseconds in float and in integers with
    what follows it, and the form in which it computes. Empty where nothing was measured.
    """
    if costs is None:
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
    """Whether it has grouped convolutions, depthwise ones among them."""
    return any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())


def _network(model: nn.Module, methods: Sequence[Method], device: Device) -> Network:
    return Network(model, models.input_size(model), layer_specs(methods), device.placement)

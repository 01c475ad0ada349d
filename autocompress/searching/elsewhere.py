"""Measures the models of a front on further devices (``also`` in a job)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from autocompress.contract import Deployable, Manager
from autocompress.contract.raised import raised
from autocompress.devices import measure
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig, Job
from autocompress.results import Row

SECONDS = 3.0
"""Seconds of measurement for each model and device."""
log = logging.getLogger("autocompress")


def measured_also(
    job: Job, front: Sequence[Row], file_of: Callable[[Row], Deployable], baseline: Deployable, plugins: Manager
) -> list[dict[str, Any]]:
    """Latencies of the front's models on each device that ``job.also`` names.

    If a device cannot be used any more, or refuses a file, the result has the reason, and the run
    goes on.

    Args:
        job: job of the search.
        front: rows with an artifact.
        file_of: returns the model of a row.
        baseline: measured in alternation with each model, on the same device.
        plugins: manager of the plugins, which knows the devices.

    Returns:
        A mapping for each device: ``device``, ``environment``, ``models`` (``trial``,
        ``latency_ms``, ``latency_ratio``, ``ratio_low``, ``ratio_high``, ``baseline_ms``,
        ``noisy``, or ``trial`` and ``reason``), and ``reason``, which is empty if the device
        could be used.
    """
    return [_on(config, front, file_of, baseline, plugins) for config in job.also]


def _on(
    config: DeviceConfig,
    front: Sequence[Row],
    file_of: Callable[[Row], Deployable],
    baseline: Deployable,
    plugins: Manager,
) -> dict[str, Any]:
    told: dict[str, Any] = {"device": config.name, "environment": {}, "models": [], "reason": ""}
    try:
        device = plugins.device(config.name)
        reasons = device.check(config)
    except UserError as error:
        reasons = [str(error)]
    if reasons:
        log.warning("the front is not measured on '%s': %s", config.name, reasons[0])
        return {**told, "reason": reasons[0]}
    for row in front:
        try:
            found = measure(device, file_of(row), baseline, config, seconds=SECONDS)
        except Exception as error:  # a plugin's fault must not end the search
            why = str(error) if isinstance(error, TrialFailed) else raised(error)
            fault = None if isinstance(error, TrialFailed) else error
            log.warning("trial %s is not measured on '%s': %s", row["trial"], config.name, why, exc_info=fault)
            told["models"].append({"trial": row["trial"], "reason": why})
            continue
        names = ("latency_ms", "latency_ratio", "ratio_low", "ratio_high", "baseline_ms", "noisy")
        told["models"].append({"trial": row["trial"], **{name: getattr(found, name) for name in names}})
        told["environment"] = found.environment
    return told

"""What scores and costs depend on beside the file: parts of content keys."""

from __future__ import annotations

from typing import Any

from autocompress.contract import Device
from autocompress.devices.machine import machine
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config
from autocompress.scoring import Scorer


def scored_with(scorer: Scorer) -> dict[str, Any]:
    """What decides the accuracy that ``scorer`` finds, as JSON values.

    Its threads, the runtime with its options, and the processor with the features by which the
    runtime chooses its kernels.
    """
    return {"scorer": {"threads": scorer.threads}, **_runtime(), **_processor()}


def measured_with(device: Device, config: DeviceConfig) -> dict[str, Any]:
    """What decides the costs that ``device`` gives, as JSON values.

    The device, how it is asked and what it says of its versions, and the runtime with its options.
    Where the device is no cost model, the processor, too.
    """
    asked = config.model_dump(mode="json")
    if not asked["options"]:
        del asked["options"]  # so that figures from before there were options are still found
    told = {"device": device.name, "device_config": asked, **device.environment(config), **_runtime()}
    return told if device.deterministic else {**told, **_processor()}


def _runtime() -> dict[str, Any]:
    return {"runtime": runtime_version(), "session_config": dict(session_config())}


def _processor() -> dict[str, Any]:
    known = machine()
    return {name: known[name] for name in ("processor", "architecture", "features")}

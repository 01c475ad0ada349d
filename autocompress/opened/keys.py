"""Parts of content keys: everything besides the file on which scores and costs depend."""

from __future__ import annotations

from typing import Any

from autocompress.contract import Device
from autocompress.devices.machine import machine
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config
from autocompress.scoring import Scorer


def scored_with(scorer: Scorer) -> dict[str, Any]:
    """Everything on which an accuracy of ``scorer`` depends, as JSON.

    These are its threads, the runtime with its options, and the processor with the features by
    which the runtime chooses kernels.
    """
    return {"scorer": {"threads": scorer.threads}, **_runtime(), **_processor()}


def measured_with(device: Device, config: DeviceConfig) -> dict[str, Any]:
    """Everything on which costs of ``device`` depend, as JSON.

    These are the device with its settings and versions, the runtime with its options and, unless
    the device is a cost model, the processor.
    """
    asked = config.model_dump(mode="json")
    if not asked["options"]:
        del asked["options"]  # so that results of versions without options are still found
    told = {"device": device.name, "device_config": asked, **device.environment(config), **_runtime()}
    return told if device.deterministic else {**told, **_processor()}


def _runtime() -> dict[str, Any]:
    return {"runtime": runtime_version(), "session_config": dict(session_config())}


def _processor() -> dict[str, Any]:
    known = machine()
    return {name: known[name] for name in ("processor", "architecture", "features")}

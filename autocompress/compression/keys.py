"""What decides scores and costs, beside the file: part of the content keys under which they are kept."""

from __future__ import annotations

from typing import Any

from autocompress.contract import Device
from autocompress.devices.machine import machine
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config


def scored_with(device: Device, config: DeviceConfig) -> dict[str, Any]:
    """What decides the outputs of a file on ``device``, as JSON values.

    The device and how it is asked, the runtime with its options, and the processor with the features by which a runtime
    chooses its kernels.
    """
    return {**_asked(device, config), **_processor()}


def measured_with(device: Device, config: DeviceConfig) -> dict[str, Any]:
    """What decides the costs that ``device`` gives: the same, but for a cost model no processor."""
    return _asked(device, config) if device.deterministic else scored_with(device, config)


def _asked(device: Device, config: DeviceConfig) -> dict[str, Any]:
    return {
        "device": device.name,
        "device_config": config.model_dump(mode="json"),
        "runtime": runtime_version(),
        "session_config": dict(session_config()),
    }


def _processor() -> dict[str, Any]:
    known = machine()
    return {name: known[name] for name in ("processor", "architecture", "features")}

"""What decides a result, beside its inputs: part of the content key of everything that is kept."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import timm
import torch
import torchvision

from autocompress.contract import Device
from autocompress.devices.machine import machine
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config


def versions() -> dict[str, str]:
    """Versions of the libraries with which torch results are computed."""
    return {
        "autocompress": importlib.metadata.version("autocompress"),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type of mixed precision on ``device``; None where training stays in float32 (CPU).

    bfloat16 on GPUs that compute in it, else float16: older ones (T4, V100) emulate bfloat16, slower than float32.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def computed_with(device: torch.device) -> dict[str, str]:
    """What decides a result that torch computes on ``device``: versions, the kind of device, mixed precision."""
    half = half_precision(device)
    return {**versions(), "device": device.type, "precision": "float32" if half is None else f"{half} mixed"}


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

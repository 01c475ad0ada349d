"""Whether a forked process can work for a device: build files for it, and measure them."""

from __future__ import annotations

import torch

from autocompress import forking
from autocompress.contract import Device
from autocompress.job import DeviceConfig


def can_build(device: Device, compute: torch.device) -> bool:
    """Whether a forked process can build candidates' files.

    A torch module cannot leave a process, and a GPU cannot be used in a forked one.

    Args:
        device: device that measures the files.
        compute: where and how torch computes.
    """
    return device.formats == {"onnx"} and compute.type == "cpu" and forking.may_fork()


def can_measure(device: Device, config: DeviceConfig, compute: torch.device) -> bool:
    """Whether a forked process can build candidates' files and measure them.

    A device with threads or connections of its own cannot be used in a forked process.
    """
    return can_build(device, compute) and (device.deterministic or device.is_in_thread(config))

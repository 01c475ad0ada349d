"""Devices: costs measured beside the baseline, or computed from a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

if TYPE_CHECKING:
    from autocompress.devices.comparing import Compared, compare_files
    from autocompress.devices.cost_model import CostModel, cost_models
    from autocompress.devices.measuring import layer_times, measure
    from autocompress.devices.onnxruntime_cpu import OnnxRuntimeCpu
    from autocompress.devices.openvino_cpu import OpenVinoCpu
    from autocompress.devices.ssh import Ssh
    from autocompress.devices.torch_eager import TorchEager

__all__ = [
    "Compared",
    "CostModel",
    "OnnxRuntimeCpu",
    "OpenVinoCpu",
    "Ssh",
    "TorchEager",
    "compare_files",
    "cost_models",
    "layer_times",
    "measure",
]

_FILES = {
    "Compared": "comparing",
    "CostModel": "cost_model",
    "OnnxRuntimeCpu": "onnxruntime_cpu",
    "OpenVinoCpu": "openvino_cpu",
    "Ssh": "ssh",
    "TorchEager": "torch_eager",
    "compare_files": "comparing",
    "cost_models": "cost_model",
    "layer_times": "measuring",
    "measure": "measuring",
}

# The lock can thus be used without loading torch and ONNX Runtime.
__getattr__ = importer(__name__, _FILES)

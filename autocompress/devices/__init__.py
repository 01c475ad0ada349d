"""What a cost is: the exported file, measured in its runtime, beside the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.devices.onnxruntime_cpu import OnnxRuntimeCpu

__all__ = ["OnnxRuntimeCpu"]


def __getattr__(name: str) -> Any:
    # On first use: who only wants the lock need not load torch and ONNX Runtime.
    if name == "OnnxRuntimeCpu":
        from autocompress.devices.onnxruntime_cpu import OnnxRuntimeCpu

        return OnnxRuntimeCpu
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

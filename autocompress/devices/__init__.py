"""What a cost is: the exported file, measured in its runtime, beside the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.devices.cost_model import CostModel, cost_models
    from autocompress.devices.onnxruntime_cpu import OnnxRuntimeCpu

__all__ = ["CostModel", "OnnxRuntimeCpu", "cost_models"]


def __getattr__(name: str) -> Any:
    # On first use: who only wants the lock need not load torch and ONNX Runtime.
    if name == "OnnxRuntimeCpu":
        from autocompress.devices.onnxruntime_cpu import OnnxRuntimeCpu

        return OnnxRuntimeCpu
    if name in ("CostModel", "cost_models"):
        from autocompress.devices import cost_model

        return getattr(cost_model, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

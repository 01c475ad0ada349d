"""What a result of torch on ``device`` depends on: versions, kind of device, mixed precision."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import timm
import torch
import torchvision


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

    bfloat16 on GPUs that compute in it, else float16: older ones (T4, V100) emulate bfloat16,
    slower than float32.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def computed_with(device: torch.device) -> dict[str, str]:
    """What decides a result that torch computes on ``device``: versions, the kind of device, mixed
    precision.
    """
    half = half_precision(device)
    return {**versions(), "device": device.type, "precision": "float32" if half is None else f"{half} mixed"}

"""Versions and settings on which results of torch depend, for content keys."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import timm
import torch
import torchvision


def versions() -> dict[str, str]:
    """Versions of the libraries that affect results of torch."""
    return {
        "autocompress": importlib.metadata.version("autocompress"),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type of mixed precision on ``device``; None for float32 (CPU).

    bfloat16 on GPUs with native support, else float16. Older GPUs (T4, V100) emulate bfloat16,
    which is slower than float32.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def computed_with(device: torch.device) -> dict[str, str]:
    """Versions, kind of device and mixed precision, which decide results of torch on ``device``."""
    half = half_precision(device)
    return {**versions(), "device": device.type, "precision": "float32" if half is None else f"{half} mixed"}

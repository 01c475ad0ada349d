"""Versions and settings on which results of torch depend, for content keys."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import timm
import torch
import torchvision

from autocompress.compute import Compute


def versions() -> dict[str, str]:
    """Versions of the libraries that affect results of torch."""
    return {
        "autocompress": importlib.metadata.version("autocompress"),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


def computed_with(compute: Compute) -> dict[str, Any]:
    """Versions and the way of computing, which decide results of torch."""
    return {**versions(), **compute.record()}

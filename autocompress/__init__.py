"""autocompress: automated model shrinking.

import autocompress

result = autocompress.search(model="resnet18", data="digits", latency="0.5x", accuracy_drop=1.0, trials=24)
result.front                                   # a pandas frame; its first row is the baseline
model = autocompress.load("results/resnet18-digits/artifacts/7")   # a torch module again
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.compression.artifact import load
    from autocompress.errors import UserError
    from autocompress.job import Job
    from autocompress.results import SearchResult, read

__version__ = importlib.metadata.version("autocompress")
__all__ = ["Job", "SearchResult", "UserError", "load", "read", "search"]

# Imported on first use: torch, timm and ray take seconds, and ``autocompress --help`` must not.
_HOMES = {
    "Job": "autocompress.job",
    "SearchResult": "autocompress.results",
    "UserError": "autocompress.errors",
    "load": "autocompress.compression.artifact",
    "read": "autocompress.results",
}


def __getattr__(name: str) -> Any:
    if name == "search":  # the package is callable itself, see autocompress/search/__init__.py
        return importlib.import_module("autocompress.search")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autocompress' has no attribute {name!r}")

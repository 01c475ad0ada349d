"""autocompress: automated model shrinking.

Example::

    import autocompress

    result = autocompress.search(
        model="resnet18", data="digits", latency="0.5x", accuracy_drop=1.0, trials=24
    )
    result.front  # a pandas frame; its first row is the baseline
    model = autocompress.load("results/resnet18-digits/artifacts/7")  # a torch module
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.checking import check
    from autocompress.compression.artifact import load
    from autocompress.debugging import debug
    from autocompress.delivery import export_model
    from autocompress.devices import compare_files
    from autocompress.errors import UserError
    from autocompress.job import Job
    from autocompress.results import SearchResult, read
    from autocompress.results.comparison import compare
    from autocompress.searching import resume, search

    __version__: str

__all__ = [
    "Job",
    "SearchResult",
    "UserError",
    "__version__",
    "check",
    "compare",
    "compare_files",
    "debug",
    "export_model",
    "load",
    "read",
    "resume",
    "search",
]

# The public names are imported on first use, because torch, timm and Ray take seconds to import.
_MODULE_OF = {
    "Job": "autocompress.job",
    "SearchResult": "autocompress.results",
    "UserError": "autocompress.errors",
    "check": "autocompress.checking",
    "compare": "autocompress.results.comparison",
    "compare_files": "autocompress.devices",
    "debug": "autocompress.debugging",
    "export_model": "autocompress.delivery",
    "load": "autocompress.compression.artifact",
    "read": "autocompress.results",
    "resume": "autocompress.searching",
    "search": "autocompress.searching",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("autocompress")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

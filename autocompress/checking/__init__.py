"""Checks whether a model meets the limits of a budget file, for continuous integration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.checking.limits import Limits, read_limits
    from autocompress.checking.subjects import check
    from autocompress.checking.verdicts import Checked, Verdict

__all__ = ["Checked", "Limits", "Verdict", "check", "read_limits"]

_HOMES = {
    "Checked": "verdicts",
    "Limits": "limits",
    "Verdict": "verdicts",
    "check": "subjects",
    "read_limits": "limits",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch takes seconds to import.
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

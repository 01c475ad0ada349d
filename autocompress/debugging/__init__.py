"""Compares a compressed network with its baseline, layer by layer, on the same images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.debugging.errors import LayerError
    from autocompress.debugging.run import Debugged, debug

__all__ = ["Debugged", "LayerError", "debug"]

_HOMES = {"Debugged": "run", "LayerError": "errors", "debug": "run"}


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch takes seconds to import.
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

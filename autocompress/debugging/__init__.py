"""Compares a compressed network with its baseline, layer by layer, on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

if TYPE_CHECKING:
    from autocompress.debugging.errors import LayerError
    from autocompress.debugging.run import Debugged, debug

__all__ = ["Debugged", "LayerError", "debug"]

_HOMES = {"Debugged": "run", "LayerError": "errors", "debug": "run"}

__getattr__ = importer(__name__, _HOMES)

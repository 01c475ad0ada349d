"""Compares a compressed network with its baseline, layer by layer, on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

if TYPE_CHECKING:
    from autocompress.debugging.run import Debugged, debug
    from autocompress.layer_errors import LayerError

__all__ = ["Debugged", "LayerError", "debug"]

_HOMES = {"Debugged": "run", "LayerError": "run", "debug": "run"}

__getattr__ = importer(__name__, _HOMES)

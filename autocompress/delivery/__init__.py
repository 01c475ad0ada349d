"""Writes one model of a run as a folder for others: file, model card, script and preprocessing.

``infer.py`` is that script. It is copied as it is, and imports nothing of this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.delivery.check import Check
    from autocompress.delivery.folder import Delivered, export_model

__all__ = ["Check", "Delivered", "export_model"]

_HOMES = {"Check": "check", "Delivered": "folder", "export_model": "folder"}


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch takes seconds to import.
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

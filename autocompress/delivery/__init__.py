"""Writes one model of a run as a folder for others: file, model card, script and preprocessing.

``infer.py`` is that script. It is copied as it is, and imports nothing of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

if TYPE_CHECKING:
    from autocompress.delivery.check import Check
    from autocompress.delivery.folder import Delivered, export_model

__all__ = ["Check", "Delivered", "export_model"]

_HOMES = {"Check": "check", "Delivered": "folder", "export_model": "folder"}

__getattr__ = importer(__name__, _HOMES)

"""Checks whether a model meets the limits of a budget file, for continuous integration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.lazy import importer

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

__getattr__ = importer(__name__, _HOMES)

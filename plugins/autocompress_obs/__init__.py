"""Optimal Brain Surgeon for channels, as a plugin: the order in which a refit of their readers
loses least.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_obs.method import Obs

__all__ = ["Obs", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``obs``."""
    return [Obs()]

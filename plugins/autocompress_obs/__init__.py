"""Optimal Brain Surgeon for channels: first removes those for which a refit compensates best."""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_obs.method import Obs

__all__ = ["Obs", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``obs``."""
    return [Obs()]

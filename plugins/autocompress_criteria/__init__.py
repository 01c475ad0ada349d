"""Pruners that look at weights alone, for comparison with those that look at data. A search draws from none of them; a
job can name them: ``prune: {method: magnitude}``.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_criteria.pruners import BatchNormScale, Magnitude, Random

__all__ = ["BatchNormScale", "Magnitude", "Random", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``magnitude``, ``bn_scale`` and ``random``."""
    return [Magnitude(), BatchNormScale(), Random()]

"""Pruners that look at weights alone, for comparison with those that look at data.

A search draws from none of them; a job can name them: ``prune: {method: magnitude}``.

Each is a plugin of its own, under the name of its method.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_criteria.pruners import BatchNormScale, Magnitude, Random

__all__ = ["BatchNormScale", "Magnitude", "Random", "bn_scale", "magnitude", "random"]


class _Plugin:
    """Offers one method."""

    def __init__(self, method: Method) -> None:
        self._method = method

    @hookimpl
    def autocompress_methods(self) -> list[Method]:
        """That method."""
        return [self._method]


magnitude, bn_scale, random = _Plugin(Magnitude()), _Plugin(BatchNormScale()), _Plugin(Random())

"""Pruners that only use weights, for comparison with pruners that use data.

A search only uses them if the job names one: ``prune: {method: magnitude}``. Each is a plugin of
its own, under the name of its method.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_simple_pruners.pruners import BatchNormScale, Magnitude, Random

__all__ = ["BatchNormScale", "Magnitude", "Random", "bn_scale", "magnitude", "random"]


class _Plugin:
    """Offers one method."""

    def __init__(self, method: Method) -> None:
        self._method = method

    @hookimpl
    def autocompress_methods(self) -> list[Method]:
        """The method of this plugin."""
        return [self._method]


magnitude, bn_scale, random = _Plugin(Magnitude()), _Plugin(BatchNormScale()), _Plugin(Random())

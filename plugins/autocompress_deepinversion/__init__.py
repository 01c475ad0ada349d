"""DeepInversion as a plugin: images with the feature statistics that batch norms recorded.

Yin et al., CVPR 2020, arXiv 1912.08795.

``settings`` has all options with defaults by image size, ``objective`` the objective of the paper,
and ``method`` the data source with its space. ``autocompress.synthesis`` optimises the pixels.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_deepinversion.method import DeepInversion

__all__ = ["DeepInversion", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``deepinversion``."""
    return [DeepInversion()]

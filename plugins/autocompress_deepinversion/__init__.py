"""DeepInversion as a plugin: images with the feature statistics that batch norms recorded.

Yin et al., CVPR 2020, arXiv 1912.08795.

Rooms: ``settings`` every option with its defaults by image size; ``objective`` the paper's
objective; ``method`` the data source with its space. The pixels are optimised by
``autocompress.synthesis``.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_deepinversion.method import DeepInversion

__all__ = ["DeepInversion", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``deepinversion``."""
    return [DeepInversion()]

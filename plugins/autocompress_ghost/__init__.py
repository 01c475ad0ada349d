"""GhostNet as a plugin: convolutions are replaced by ghost modules.

Han et al., CVPR 2020, arXiv 1911.11907.

- ``module``: the ghost module and its sizes.
- ``pairing``: assigns ghosts to intrinsic channels.
- ``fit``: fits ghosts by least squares on calibration images.
- ``work`` and ``initialise``: weights from the trained convolution.
- ``hosts``: the surroundings of a convolution.
- ``surgery``: puts modules into a network.
- ``removal``: removes channels of modules.
- ``method``: the transform with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_ghost.method import Ghost
from autocompress_ghost.module import GhostConv2d

__all__ = ["Ghost", "GhostConv2d"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The transform ``ghost``."""
    return [Ghost()]

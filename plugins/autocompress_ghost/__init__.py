"""GhostNet as a plugin: convolutions give way to ghost modules.

Han et al., CVPR 2020, arXiv 1911.11907.

Rooms: ``module`` the ghost module and its sizes; ``pairing`` which channels are ghosts of which;
``fit`` least squares on calibration images; ``work`` and ``initialise`` weights from the trained
convolution; ``hosts`` what stands around a convolution; ``surgery`` putting modules in; ``removal``
taking channels out of them; ``method`` the transform with its space.
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

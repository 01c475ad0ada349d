"""SCOP as a plugin: channels that do no better than a knockoff control are removed. Tang et al., NeurIPS 2020,
arXiv 2010.10732.

What can be removed, and how, is the engine's: ``autocompress.pruning``.

Rooms: ``knockoffs`` the control group, with ``knockoffs_gaussian`` and ``knockoffs_gan``; ``control``
the control scales; ``scores`` importance and rankings; ``scoring`` all of it, once for a baseline; ``asked`` how, as a
recipe says it; ``rescoring`` what a substituted network needs first; ``widths`` how many channels stay; ``method`` the
transform with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_scop.method import Scop

__all__ = ["Scop"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The transform ``scop``."""
    return [Scop()]

"""SCOP as a plugin: channels that do no better than a knockoff control are removed.

Tang et al., NeurIPS 2020, arXiv 2010.10732.

What can be removed, how much of it goes, and how, is the engine's PRUNE stage.

Rooms: ``knockoffs`` the control group, with ``knockoffs_gaussian`` and ``knockoffs_gan``;
``control`` the control scales; ``scores`` importance; ``scoring`` all of it, once for a baseline;
``asked`` how, as a recipe says it; ``rescoring`` what a substituted network needs first; ``method``
the pruner.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_scop.method import Scop

__all__ = ["Scop"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``scop``."""
    return [Scop()]

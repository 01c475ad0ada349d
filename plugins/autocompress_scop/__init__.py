"""SCOP as a plugin: removes channels that are no better than a knockoff control.

Tang et al., NeurIPS 2020, arXiv 2010.10732.

The PRUNE stage of the engine finds couplings, decides widths, and removes channels.

- ``knockoffs``: the control group, with ``knockoffs_gaussian`` and ``knockoffs_gan``.
- ``control``: the control scales.
- ``scores``: importance of channels.
- ``scoring``: makes all scores of a baseline.
- ``asked``: the parameters of scores in a recipe.
- ``rescoring``: a short recovery of a substituted network, before it is scored.
- ``method``: the pruner.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_scop.method import Scop

__all__ = ["Scop"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``scop``."""
    return [Scop()]

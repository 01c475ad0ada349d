"""SCOP as a plugin: channels that do no better than a knockoff control are removed. Tang et al., NeurIPS 2020,
arXiv 2010.10732.

Rooms of the removal: ``coupling`` which channels must live or die together, and how many of them; ``dependencies``
finding them with torch-pruning's dependency graph; ``attention`` whole heads of them; ``verifying`` measuring that a
removal leaves the function alone; ``slicing`` one layer, fewer channels; ``masking`` zeros in place of removal;
``removal`` the whole network.

Rooms of the scoring: ``knockoffs`` the control group, with ``knockoffs_gaussian`` and ``knockoffs_gan``; ``control``
the control scales; ``scores`` importance and rankings; ``scoring`` all of it, once for a baseline; ``asked`` how, as a
recipe says it; ``rescoring`` what a substituted network needs first.

``widths`` how many channels stay; ``method`` the transform with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_scop.method import Scop

__all__ = ["Scop"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The transform ``scop``."""
    return [Scop()]

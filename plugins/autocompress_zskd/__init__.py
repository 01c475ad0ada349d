"""Zero-Shot Knowledge Distillation (Nayak et al., ICML 2019): images for sampled soft labels.

Rooms: ``sampling`` class similarity, concentrations and soft labels; ``head`` the last layer that
they are read off; ``method`` the data source with its space; ``networks`` the paper's networks,
known to timm once that file is imported.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_zskd.method import Zskd

__all__ = ["Zskd", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``zskd``."""
    return [Zskd()]

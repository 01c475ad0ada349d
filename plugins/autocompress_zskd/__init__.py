"""Zero-Shot Knowledge Distillation (Nayak et al., ICML 2019): images for sampled soft labels.

- ``sampling``: class similarity, concentrations and soft labels.
- ``head``: the last layer, from whose weights similarities are computed.
- ``method``: the data source with its space.
- ``networks``: the networks of the paper, which timm knows after an import of this module.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_zskd.method import Zskd

__all__ = ["Zskd", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``zskd``."""
    return [Zskd()]

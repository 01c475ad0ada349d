"""The Knowledge Within (Haroush et al., CVPR 2020): images from a model's statistics.

``method`` has the data source with its space. The engine has the divergence and the prior of
smoothness (``autocompress.synthesis.terms_gaussian``), and J(D; M)
(``autocompress.synthesis.similarity``).
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_knowledge_within.method import KnowledgeWithin

__all__ = ["KnowledgeWithin", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``knowledge_within``."""
    return [KnowledgeWithin()]

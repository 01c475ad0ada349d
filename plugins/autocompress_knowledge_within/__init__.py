"""The Knowledge Within (Haroush et al., CVPR 2020): images from a model's statistics.

Rooms: ``method`` the data source with its space. What it is made of is the engine's: the divergence
and the prior of smoothness in ``autocompress.synthesis.terms_gaussian``, J(D; M) in
``autocompress.synthesis.similarity``.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_knowledge_within.method import KnowledgeWithin

__all__ = ["KnowledgeWithin", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The data source ``knowledge_within``."""
    return [KnowledgeWithin()]

"""Indices and their maps in torch-pruning's dependency graph."""

from __future__ import annotations

from typing import Any

from torch_pruning._helpers import _HybridIndex


def channel_indices(size: int) -> list[Any]:
    """The channels 0 to ``size`` - 1, each as its own root. Private: ``_helpers._HybridIndex``."""
    return [_HybridIndex(idx=i, root_idx=i) for i in range(size)]


def growth_of(mapping: Any) -> int:
    """The number of indices to which ``mapping`` maps one index.

    Private: ``_stride`` of the maps through a flatten.
    """
    return 1 if getattr(mapping, "reverse", True) else int(getattr(mapping, "_stride", 1))

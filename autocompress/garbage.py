"""Garbage collection in processes of our own: the command line, and workers of a search."""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 10, 10)
"""Python's own are 700, 10 and 10."""


def collect_seldom() -> None:
    """Collects garbage less often in this process; to be called before libraries are imported.

    Imports make hundreds of thousands of objects that last. With Python's thresholds, all of them
    are visited so often that the imports of a search take a second longer.
    """
    gc.set_threshold(*THRESHOLDS)

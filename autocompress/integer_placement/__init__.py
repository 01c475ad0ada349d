"""Finds where integers are faster on a device: times regions in both forms, chooses a placement."""

from autocompress.integer_placement.costs import Change, MeasuredCosts
from autocompress.integer_placement.paying import Paying, paying
from autocompress.integer_placement.placer import Placer

__all__ = ["Change", "MeasuredCosts", "Paying", "Placer", "paying"]

"""Finds where integers are faster on a device: times regions in both forms, chooses a placement."""

from autocompress.tuning.costs import Change, MeasuredCosts
from autocompress.tuning.paying import Paying, paying
from autocompress.tuning.tuner import Tuner

__all__ = ["Change", "MeasuredCosts", "Paying", "Tuner", "paying"]

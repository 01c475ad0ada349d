"""Where integers pay on a device: regions timed in both forms, and the placement that follows."""

from autocompress.tuning.costs import Change, MeasuredCosts
from autocompress.tuning.paying import Paying, paying
from autocompress.tuning.tuner import Tuner

__all__ = ["Change", "MeasuredCosts", "Paying", "Tuner", "paying"]

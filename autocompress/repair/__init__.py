"""Refits weights without training, from second moments of layer inputs (docs/repair.md).

- :mod:`.columns` unfolds the input of a layer.
- :mod:`.moments` computes mean and covariance of the columns over calibration images.
- :mod:`.refit` solves for weights that compensate for removed columns.
- :mod:`.oneshot` and :mod:`.sequential` repair whole networks.
- :mod:`.removal_order` orders channels by the error after a refit.
- :mod:`.curves` computes that error for every width.
- :mod:`.rescaling` corrects moments on images that differ from the data.
- :mod:`.rounding` puts weights on few levels.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.repair.columns import Columns, has_columns
from autocompress.repair.curves import curve
from autocompress.repair.importance import gradient_energy
from autocompress.repair.moments import MOST_COLUMNS, RIDGES, Moments, columns_of, gather
from autocompress.repair.oneshot import repair
from autocompress.repair.refit import choose_ridge, output_error, refit
from autocompress.repair.removal_order import Reader, eliminate, inverses, readers
from autocompress.repair.rescaling import correction, rescaled, variance_ratios
from autocompress.repair.rounding import ROUNDINGS, Levels, Rounding, rounded
from autocompress.repair.sequential import Lockstep, Report

__all__ = [
    "MOST_COLUMNS",
    "RIDGES",
    "ROUNDINGS",
    "Columns",
    "Levels",
    "Lockstep",
    "Moments",
    "Reader",
    "Report",
    "Rounding",
    "choose_ridge",
    "columns_of",
    "correction",
    "curve",
    "eliminate",
    "gather",
    "gradient_energy",
    "has_columns",
    "inverses",
    "output_error",
    "readers",
    "refit",
    "repair",
    "rescaled",
    "rounded",
    "variance_ratios",
]

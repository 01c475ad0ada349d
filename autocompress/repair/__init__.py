"""Weights refitted without training, from second moments of layer inputs (docs/repair.md).

:mod:`.columns` unfolds a layer's input, :mod:`.moments` gathers its mean and covariance over
calibration images, :mod:`.refit` solves for the weights that make up for lost columns,
:mod:`.oneshot` and :mod:`.sequential` repair whole networks, :mod:`.elimination` orders channels by
the error that a refit leaves, and :mod:`.curves` gives that error at every width.
:mod:`.rescaling` mends moments on images that are not like the data.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.repair.columns import Columns, has_columns
from autocompress.repair.curves import curve
from autocompress.repair.elimination import Reader, eliminate, inverses, readers
from autocompress.repair.importance import gradient_energy
from autocompress.repair.moments import RIDGES, Moments, gather
from autocompress.repair.oneshot import repair
from autocompress.repair.refit import choose_ridge, output_error, refit
from autocompress.repair.rescaling import correction, rescaled, variance_ratios
from autocompress.repair.sequential import Lockstep, Report

__all__ = [
    "RIDGES",
    "Columns",
    "Lockstep",
    "Moments",
    "Reader",
    "Report",
    "choose_ridge",
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
    "variance_ratios",
]

"""Synthesises images from a teacher alone: optimisation of pixels, and terms of objectives.

- ``pixels``: the optimisation, with ``settings`` (phases, schedule, views) and ``frozen``.
- ``statistics``: recorded statistics of batch norms, and those of their inputs.
- ``view`` and ``terms``: the terms of an objective.
- ``budget``: number of images, batches and classes.
- ``sets``: transfer sets and their quality.
- ``sheet``: an overview image.
"""

from autocompress.models import data_info
from autocompress.synthesis.budget import SynthesisBudget, balanced_labels, starting_noise
from autocompress.synthesis.frozen import frozen
from autocompress.synthesis.pixels import Objective, Optimised, optimise_pixels
from autocompress.synthesis.sets import quality, teacher_logits, transfer_set
from autocompress.synthesis.settings import Phase, PixelSettings, learning_rate, pixel_bounds
from autocompress.synthesis.sheet import contact_sheet
from autocompress.synthesis.statistics import (
    NormInput,
    channel_statistics,
    norm_layers,
    reasons_against_statistics,
    watching_norms,
)
from autocompress.synthesis.terms import (
    class_loss,
    competition,
    feature_distance,
    image_norm,
    jensen_shannon,
    soft_target_loss,
    total_variation,
)
from autocompress.synthesis.view import Term, View

__all__ = [
    "NormInput",
    "Objective",
    "Optimised",
    "Phase",
    "PixelSettings",
    "SynthesisBudget",
    "Term",
    "View",
    "balanced_labels",
    "channel_statistics",
    "class_loss",
    "competition",
    "contact_sheet",
    "data_info",
    "feature_distance",
    "frozen",
    "image_norm",
    "jensen_shannon",
    "learning_rate",
    "norm_layers",
    "optimise_pixels",
    "pixel_bounds",
    "quality",
    "reasons_against_statistics",
    "soft_target_loss",
    "starting_noise",
    "teacher_logits",
    "total_variation",
    "transfer_set",
    "watching_norms",
]

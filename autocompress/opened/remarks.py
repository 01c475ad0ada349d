"""Notes for the user about a baseline that works, but is probably not as intended."""

from __future__ import annotations

import math

from torch import nn

from autocompress import models
from autocompress.data import Splits
from autocompress.files import digest
from autocompress.job import Job
from autocompress.opened.baseline import Baseline
from autocompress.opened.normalisation import note_on_normalisation
from autocompress.store import Store
from autocompress.training import evaluate

FITTED = 90.0
"""Training accuracy in percent below which a network is called undertrained.

Longer training usually raises an accuracy below this.
"""
FITTED_IMAGES = 1_000


def remarks(job: Job, model: nn.Module, splits: Splits, baseline: Baseline, store: Store) -> tuple[str, ...]:
    """Notes if the baseline is at chance or undertrained, or another normalisation fits better.

    Args:
        job: job of the search.
        model: the float baseline, in eval mode.
        splits: data splits of the job. There are no notes if their labels are predictions of the
            baseline, or if they are not classes.
        baseline: the measured baseline.
        store: stores the accuracy on training images and the comparison of normalisations.
    """
    if splits.by_agreement or not len(splits.val) or not splits.info.task.is_classification:
        return ()
    trained_here = models.needs_training(job, splits.info)
    if trained_here and not job.baseline.epochs:  # the user asked for random weights
        return ()
    found = [_on_chance(splits, baseline)]
    if trained_here and not found[0]:
        found.append(_on_training(job, model, splits, baseline, store))
    if not trained_here:
        images = splits.val if splits.unlabelled else max(splits.val, splits.train, key=len)
        found.append(note_on_normalisation(model, images, baseline.macs, store, baseline.weights_key))
    return tuple(text for text in found if text)


def _on_training(job: Job, model: nn.Module, splits: Splits, baseline: Baseline, store: Store) -> str:
    """A note if a baseline that was trained here has not learned its training images."""
    some = splits.train.subset(FITTED_IMAGES, job.seed)
    key = digest("fitted", baseline.weights_key, some.digest)
    share = float(store.made(key, lambda: {"percent": evaluate(model, some)[0]})["percent"])
    if share >= FITTED:
        return ""
    return (
        f"the baseline looks undertrained: it classifies {share:.1f} % of its training images correctly, and "
        f"{baseline.accuracy:.1f} % of the validation images; train it longer with baseline.epochs or baseline.steps"
    )


def _on_chance(splits: Splits, baseline: Baseline) -> str:
    """A note if the baseline is no better than predicting the most frequent class."""
    labels = splits.val.labels()
    share = float(labels.bincount().max()) / len(labels)
    likely = share + math.sqrt(share * (1 - share) / len(labels))
    if baseline.accuracy > 100 * likely:
        return ""
    return (
        f"the baseline is at chance: it classifies {baseline.accuracy:.1f} % of {len(labels):,} validation images "
        f"correctly, and always predicting the most frequent class would give {100 * share:.1f} %"
    )

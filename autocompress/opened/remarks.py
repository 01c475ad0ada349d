"""What a user should hear about a baseline that works, but hardly as it was meant."""

from __future__ import annotations

import math

from torch import nn

from autocompress import models
from autocompress.data import Splits
from autocompress.job import Job
from autocompress.opened.baseline import Baseline
from autocompress.opened.normalisation import note_on_normalisation
from autocompress.store import Store


def remarks(job: Job, model: nn.Module, splits: Splits, baseline: Baseline, store: Store) -> tuple[str, ...]:
    """Notes on the baseline: it is no better than a guess, or another normalisation fits better.

    Args:
        job: that the baseline belongs to.
        model: the float baseline, in eval mode.
        splits: of the job. Where their labels are the baseline's own answers, there is nothing to
            say.
        baseline: as measured.
        store: where the comparison of normalisations is kept.
    """
    if splits.by_agreement or not len(splits.val):
        return ()
    trained_here = models.needs_training(job, splits.info)
    if trained_here and not job.baseline.epochs:  # random weights, as asked for
        return ()
    found = [_on_chance(splits, baseline)]
    if not trained_here:
        images = splits.val if splits.unlabelled else max(splits.val, splits.train, key=len)
        found.append(note_on_normalisation(model, images, baseline.macs, store, baseline.weights_key))
    return tuple(text for text in found if text)


def _on_chance(splits: Splits, baseline: Baseline) -> str:
    """A note where the baseline is no better than always naming the most frequent class."""
    labels = splits.val.labels()
    share = float(labels.bincount().max()) / len(labels)
    likely = share + math.sqrt(share * (1 - share) / len(labels))
    if baseline.accuracy > 100 * likely:
        return ""
    return (
        f"the baseline is at chance: it labels {baseline.accuracy:.1f} % of {len(labels):,} validation images rightly, "
        f"and naming the most frequent class always would give {100 * share:.1f} %"
    )

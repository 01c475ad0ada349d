"""Judges candidates without labels, by agreement with the baseline on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from autocompress.data import Split, Splits
from autocompress.errors import UserError
from autocompress.files import digest
from autocompress.opened.baseline import Baseline, measure_baseline
from autocompress.scoring import Scorer
from autocompress.store import Store

LEAST_SURE = 0.99
"""Share of the held-out images on which file and torch model of the baseline must agree."""


def judged_by_agreement(
    model: nn.Module,
    splits: Splits,
    held_out: Split,
    scorer: Scorer,
    store: Store,
    folder: Path,
    pause: Callable[[], None] | None = None,
) -> tuple[Splits, Baseline]:
    """The splits with held-out images for validation, and the baseline measured on them.

    The accuracy of the baseline is 100 there. Images on which its file and its torch model differ
    are left out.

    Args:
        model: the float baseline.
        splits: data splits of the job; their validation images have no labels.
        held_out: the images for comparison, with predictions of the baseline as labels.
        scorer, store, folder, pause: as for :func:`measure_baseline`.

    Raises:
        UserError: if file and torch model differ more often than rounding explains.
    """
    splits = replace(splits, val=held_out, whole_val=None, by_agreement=True)
    baseline = measure_baseline(model, splits, scorer, store, folder, pause)
    sure = torch.from_numpy(baseline.correct)
    if not bool(sure.all()):
        if float(sure.float().mean()) < LEAST_SURE:
            images = "pictures without labels" if splits.unlabelled else "synthetic images"
            instead = (
                "give other pictures" if splits.unlabelled else "leave out a data source with space: {source: [...]}"
            )
            raise UserError(
                f"file and torch model of the baseline agree on only {baseline.accuracy:.1f} % of the {images}",
                f"so candidates cannot be compared with the baseline on them; {instead}",
            )
        splits = replace(splits, val=splits.val.take(sure.nonzero().flatten()))
        baseline = measure_baseline(model, splits, scorer, store, folder, pause)
    # Rows that were judged on other images cannot be compared with those of this search.
    return splits, replace(baseline, key=digest(baseline.key, splits.val.digest))

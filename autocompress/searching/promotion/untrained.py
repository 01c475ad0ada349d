"""Recipes without training of their own, because rungs decide what is trained; cost of rungs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autocompress.contract import Value
from autocompress.contract.space import Chooser
from autocompress.data import Splits
from autocompress.job import Job, limits_of
from autocompress.recipes import rungs
from autocompress.recipes.choosers import Replay
from autocompress.training.recovery import batch_size

EPOCHS = "recover.epochs"


def rungs_act(job: Job) -> bool:
    """Whether recipes of ``job`` may climb."""
    return job.search.rungs and job.budget.epochs > 0


def rung_effort(splits: Splits, job: Job) -> dict[int, float]:
    """For each rung, its number of training images per image that scores a recipe.

    It is empty if the training images are not known yet.
    """
    if splits.synthetic or not len(splits.train) or not len(splits.val):
        return {}
    images = len(splits.train)
    batch = min(batch_size(images), images)
    numbers = range(1, rungs.LAST + 1)
    return {rung: rungs.images_of(rung, images, batch, job.budget.epochs) / len(splits.val) for rung in numbers}


def epochs_are_drawn(job: Job) -> bool:
    """Whether the sampler draws the epochs of recipes: without rungs, or if the job names them."""
    return not rungs_act(job) or any(name in ("recover", EPOCHS) for name in limits_of(job).values)


def untrained(values: Mapping[str, Value], compose: Callable[[Chooser], Any]) -> dict[str, Value]:
    """The recipe without RECOVER, unless a method or the job needs it."""
    if not values.get(EPOCHS):
        return dict(values)
    try:
        return dict(compose(Replay({**values, EPOCHS: 0})).values)
    except Exception:  # a plugin's fault must not end the search
        return dict(values)

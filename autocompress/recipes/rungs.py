"""Rungs: training budgets for recipes, after the search knows their accuracy after repair.

Rung 0 trains nothing. Each rung goes on from the network of the one below, so that a recipe which
climbs is trained by all of them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autocompress.contract import Params
from autocompress.recipes.recipe import Recipe

LAST = 2
QUARTER = 0.25
"""Of an epoch: rung 1."""
LEAST_STEPS = {1: 100, 2: 400}
"""Small sets have few steps an epoch, and a network needs steps."""
MOST_IMAGES = 200_000
"""No rung sees more, an image that it sees again counted again."""
AFTER_REPAIR, WITHOUT_REPAIR = 5e-4, 2e-3
"""Learning rates. Larger ones undo a repair: a quarter epoch at 1e-3 loses points."""
DISTILL = 0.5
"""Weight of the baseline's answers, where there are labels too. With 0.9, rung 1 gained 1.2 points
less on a ResNet-10-T (docs/rungs.md)."""


def can_climb(recipe: Recipe, epochs: float) -> bool:
    """Whether a rung can train the recipe.

    Something was removed or replaced, and the recipe itself asks for no training.

    Args:
        recipe: as composed.
        epochs: the most that one trial of the job recovers; with 0 nothing is ever trained.
    """
    changed = recipe.prune is not None or bool(recipe.transforms)
    own = recipe.recover.get("epochs") or recipe.qat.get("epochs")
    return changed and not own and epochs > 0


def steps_of(rung: int, images: int, batch: int, epochs: float) -> int:
    """Optimizer steps of rung 1, or of rung 2 alone.

    Args:
        rung: 1 or 2.
        images: to train on.
        batch: images a step; at most ``images``.
        epochs: of the job's budget, for rung 2.
    """
    wanted = QUARTER if rung == 1 else float(epochs)
    steps = max(math.ceil(wanted * images / batch), LEAST_STEPS[rung])
    return max(1, min(steps, MOST_IMAGES // batch))


def images_of(rung: int, images: int, batch: int, epochs: float) -> int:
    """Images that a rung trains on, an image that it sees again counted again.

    Args:
        rung, images, batch, epochs: as in :func:`steps_of`.
    """
    return batch * steps_of(rung, images, batch, epochs)


def at_rung(recipe: Recipe, rung: int, *, images: int, batch: int, epochs: float, labelled: bool) -> Recipe:
    """The recipe as rung ``rung`` makes it: its values stay, and training is added.

    Args:
        recipe: that can climb (:func:`can_climb`).
        rung: 0 to ``LAST``; with 0 it is the recipe itself.
        images, batch, epochs: as in :func:`steps_of`.
        labelled: the images have labels that mean something.
    """
    is_refitted = recipe.repair.get("fit", "none") != "none"
    stages: list[Params] = [
        {
            "epochs": 0,
            "least_steps": steps_of(number, images, batch, epochs),
            "batch_size": batch,
            "lr": AFTER_REPAIR if is_refitted else WITHOUT_REPAIR,
            "distill": DISTILL if labelled else 1.0,
            # Not augmented, an image has one answer of the baseline, which is computed once.
            "augment": number > 1,
        }
        for number in range(1, rung + 1)
    ]
    return replace(recipe, rungs=tuple(stages))

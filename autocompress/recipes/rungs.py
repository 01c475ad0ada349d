"""Rungs: training budgets for recipes, after the search knows their accuracy after repair.

Rung 0 trains nothing. Each higher rung continues from the network of the rung below it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autocompress.contract import Params
from autocompress.recipes.recipe import Recipe

LAST = 2
QUARTER = 0.25
"""Epochs of rung 1."""
LEAST_STEPS = {1: 100, 2: 400}
"""Minimum number of steps of rungs 1 and 2. Small data sets have few steps per epoch."""
MOST_IMAGES = 200_000
"""Maximum number of images of a rung; an image counts each time it is used."""
AFTER_REPAIR, WITHOUT_REPAIR = 5e-4, 2e-3
"""Learning rates. Larger ones undo a repair: a quarter epoch at 1e-3 loses points."""
DISTILL = 0.5
"""Weight of distillation, if there are also labels. With 0.9, rung 1 gained less."""


def can_climb(recipe: Recipe, epochs: float) -> bool:
    """Whether a rung can train the recipe.

    This is true if something was removed or replaced, and the recipe itself asks for no training.

    Args:
        recipe: as composed.
        epochs: maximum number of epochs of recovery of one trial; with 0, nothing is ever trained.
    """
    changed = recipe.prune is not None or bool(recipe.transforms)
    own = recipe.recover.get("epochs") or recipe.qat.get("epochs")
    return changed and not own and epochs > 0


def steps_of(rung: int, images: int, batch: int, epochs: float) -> int:
    """Optimizer steps of rung 1, or of rung 2 alone.

    Args:
        rung: 1 or 2.
        images: number of training images.
        batch: images a step; at most ``images``.
        epochs: epochs of the job's budget, for rung 2.
    """
    wanted = QUARTER if rung == 1 else float(epochs)
    steps = max(math.ceil(wanted * images / batch), LEAST_STEPS[rung])
    return max(1, min(steps, MOST_IMAGES // batch))


def images_of(rung: int, images: int, batch: int, epochs: float) -> int:
    """Number of images that a rung trains on; an image counts each time it is used.

    Args:
        rung, images, batch, epochs: as in :func:`steps_of`.
    """
    return batch * steps_of(rung, images, batch, epochs)


def at_rung(recipe: Recipe, rung: int, *, images: int, batch: int, epochs: float, labelled: bool) -> Recipe:
    """The recipe with the training of all rungs up to ``rung``; its values are unchanged.

    Args:
        recipe: that can climb (:func:`can_climb`).
        rung: 0 to ``LAST``; with 0 it is the recipe itself.
        images, batch, epochs: as in :func:`steps_of`.
        labelled: the images have meaningful labels.
    """
    is_refitted = recipe.repair.get("fit", "none") != "none"
    stages: list[Params] = [
        {
            "epochs": 0,
            "least_steps": steps_of(number, images, batch, epochs),
            "batch_size": batch,
            "lr": AFTER_REPAIR if is_refitted else WITHOUT_REPAIR,
            "distill": DISTILL if labelled else 1.0,
            # Without augmentation, the outputs of the baseline are computed once for each image.
            "augment": number > 1,
        }
        for number in range(1, rung + 1)
    ]
    return replace(recipe, rungs=tuple(stages))

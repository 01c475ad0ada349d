"""A recipe cut short after each of its stages, so that the effect of each can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autocompress.recipes.recipe import Recipe

OPERATORS, CHANNELS, REPAIR, TRAINING, BITS = "operators", "channels", "repair", "training", "bits"
"""Stages in the order of the pipeline. Cut after the last one that acts, a recipe is whole."""


def stages(recipe: Recipe) -> Sequence[tuple[str, Recipe]]:
    """(stage, the recipe up to it) for each stage of ``recipe`` that does something.

    The last recipe is ``recipe`` itself. If it leaves the baseline unchanged, there are none.
    """
    steps: list[tuple[str, Recipe]] = []
    unrepaired = {**recipe.repair, "fit": "none"} if recipe.repair else {}
    bare = replace(recipe, transforms=(), prune=None, repair={}, recover={}, bits={}, quantizers={}, qat={}, rungs=())
    if recipe.transforms:
        bare = replace(bare, transforms=recipe.transforms)
        steps.append((OPERATORS, bare))
    if recipe.prune is not None:
        bare = replace(bare, prune=recipe.prune, repair=unrepaired)
        steps.append((CHANNELS, bare))
    if recipe.repair.get("fit", "none") != "none":
        bare = replace(bare, repair=recipe.repair)
        steps.append((REPAIR, bare))
    if recipe.recover.get("epochs") or recipe.rungs:
        bare = replace(bare, repair=recipe.repair, recover=recipe.recover, rungs=recipe.rungs)
        steps.append((TRAINING, bare))
    if recipe.bits:
        steps.append((BITS, recipe))
    if steps:
        steps[-1] = (steps[-1][0], recipe)
    return steps

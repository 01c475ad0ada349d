"""A toy job whose recipes are promoted to higher rungs.

Each rung regains half of the points that the widths cost. ``toy.fault`` only breaks the trainings
of rungs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from toy_search import OpenedToy, ToyCandidate, ToyRecipe, offer_toy_device

from autocompress.job import Job

BASELINE = {"accuracy": 90.0, "size_bytes": 4000, "params": 1000, "macs": 5000, "energy_uj": 160000.0}


class ClimbingToy(OpenedToy):
    """Toy recipes with fewer channels can be promoted."""

    def at_rung(self, recipe: ToyRecipe, rung: int) -> ToyRecipe | None:
        return replace(recipe, rung=rung) if float(recipe.values["toy.width"]) < 1 else None

    def candidate(self, recipe: ToyRecipe, *, dry_run: bool = False, **more: Any) -> ToyCandidate:
        whole = {**recipe.values, "toy.fault": "none"} if not recipe.rung else recipe.values
        found = super().candidate(replace(recipe, values=whole), dry_run=dry_run, **more)
        lost = 6 * (1 - float(recipe.values["toy.width"]))
        return replace(found, recipe=recipe, correct=found.correct + round(lost * (1 - 0.5**recipe.rung)))


def open_climbing_toy(job: Job, progress: Callable[[float, str], None] | None = None) -> ClimbingToy:
    """The opener of toy searches with promotions."""
    del progress
    offer_toy_device()
    return ClimbingToy(job, job.folder / "toy")

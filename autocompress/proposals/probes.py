"""Builds the probes: networks of other widths, whose profiles give the costs of widths.

Costs do not depend on the values of weights, so probes are built before losses are measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.compression.candidate import Candidate
from autocompress.compression.pipeline import Pipeline
from autocompress.contract import Deployable
from autocompress.devices.lock import MachineLock
from autocompress.proposals.budgets import probe_points
from autocompress.proposals.choices import Part
from autocompress.proposals.factors import Factor
from autocompress.proposals.problem import Problem
from autocompress.proposals.shares import KEEP, ShareRecipes

COUNT = 5
MOST_DIVERGENCE = 4.0
"""Approximate maximum divergence, by :func:`prior`, of all probes except the cheapest one.

At this divergence, every coupling keeps a third of its channels.
"""
Point = Sequence[int]
"""The choice of each part, as its index."""
Built = list[tuple[Point, Deployable]]
log = logging.getLogger("autocompress.proposals")


def prior(part: Part) -> np.ndarray:
    """Divergence of each choice of a coupling before anything is measured.

    It is the squared ratio of removed to kept channels, for each coupling.
    """
    kept = np.array([float(share) for share in part.choices])
    return ((1 - kept) / kept) ** 2


def points(parts: Sequence[Part], work: Sequence[Factor]) -> list[tuple[int, ...]]:
    """The widths of the probes, spread over ``work``, a cost that is known without measuring."""
    divergences = {part.key: prior(part) / len(parts) for part in parts}
    problem = Problem(tuple(parts), divergences, {"work": list(work)}, {})
    return probe_points(problem, "work", COUNT, most_divergence=MOST_DIVERGENCE)


@dataclass
class ProbeBuilder:
    """Builds probes as files.

    Attributes:
        recipes: makes recipes from shares of channels.
        pipeline: makes a candidate from a recipe.
        export: writes the file of a candidate.
    """

    recipes: ShareRecipes
    pipeline: Pipeline
    export: Callable[[Candidate, Path], Deployable]

    def build(
        self,
        parts: Sequence[Part],
        points: Sequence[Point],
        folder: Path,
        lock: MachineLock,
        tell: Callable[[int], None] | None = None,
    ) -> Built:
        """The files of those probes that can be built, in ``folder``.

        ``tell`` is called with the number of each probe.
        """
        found: Built = []
        for number, indices in enumerate(points):
            if tell is not None:
                tell(number)
            shares = {KEEP + part.name: float(part.choices[at]) for part, at in zip(parts, indices, strict=True)}
            with lock.shared():
                recipe = self.recipes.recipe(shares)
                if recipe is None:
                    continue
                try:
                    candidate = self.pipeline.run(recipe, dry_run=True, pause=lock.breathe)
                    lock.breathe()  # a trial may wait to measure
                    found.append((indices, self.export(candidate, folder / f"probe{number}.onnx")))
                except Exception as error:  # other probes may succeed
                    log.warning("a probe cannot be built: %s: %s", type(error).__name__, error)
        return found

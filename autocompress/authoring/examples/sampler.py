"""A sampler: quasi-random recipes, which fill the space evenly."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler

from autocompress.contract import Sampler, hookimpl
from autocompress.job import Job


class Example(Sampler):
    """A scrambled Sobol sequence; a job names it: ``sampler: example``."""

    name = "example"
    learns_from_pruned = True  # it learns from no trial, so a pruned one does no harm

    def make(self, job: Job, seed: int) -> BaseSampler:
        """A new Optuna sampler for any number of objectives (``job.objectives``)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


@hookimpl
def autocompress_samplers() -> list[Sampler]:
    """The samplers of this plugin."""
    return [Example()]

"""Makes the Optuna sampler of a job: TPE, NSGA-II, GP or random, with its seed and settings."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler

from autocompress.compat.optuna import RememberingTPE
from autocompress.job import Job

SEE_THE_LAST = frozenset({"tpe", "gp", "random"})
"""Samplers for which the last trials and the front are enough; NSGA-II needs its generations."""


def make_sampler(job: Job, told: int = 0) -> BaseSampler:
    """The sampler of ``job``.

    Args:
        job: its sampler, seed, workers and budget are used.
        told: number of trials in the study. It shifts the seed, so that a resumed search does not
            draw its first random recipes again. A new search (0) uses the seed of the job.
    """
    seed = job.seed + told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if job.sampler == "tpe":
            # With several workers, constant_liar keeps the recipes of running trials apart.
            return RememberingTPE(
                multivariate=True,
                group=True,
                constant_liar=job.workers > 1,
                seed=seed,
            )
        if job.sampler == "nsga2":
            # Optuna's default of 50 would use almost all of 60 trials for one random generation.
            return NSGAIISampler(population_size=max(4, min(50, job.budget.trials // 5)), seed=seed)
        if job.sampler == "gp":
            return GPSampler(seed=seed)
    return RandomSampler(seed=seed)

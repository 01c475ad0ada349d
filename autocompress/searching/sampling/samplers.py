"""Samplers: which of Optuna's proposes recipes, and how it is seeded."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autocompress.job import Job


def make_sampler(job: Job, told: int = 0) -> BaseSampler:
    """The sampler that ``job`` names.

    Args:
        job: its sampler, seed, workers and budget are used.
        told: trials that the study holds already. It shifts the seed, so that a resumed search does
            not draw its first random recipes again; a new search (0) uses the job's seed itself.
    """
    seed = job.seed + told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if job.sampler == "tpe":
            # Even one worker has a trial in flight while the next is asked; with several, the liar
            # keeps them apart.
            return TPESampler(
                multivariate=True,
                group=True,
                constant_liar=job.workers > 1,
                seed=seed,
            )
        if job.sampler == "nsga2":
            # Optuna's default of 50 would spend a budget of 60 trials on one random generation.
            return NSGAIISampler(population_size=max(4, min(50, job.budget.trials // 5)), seed=seed)
        if job.sampler == "gp":
            return GPSampler(seed=seed)
    return RandomSampler(seed=seed)

"""The built-in samplers: TPE, NSGA-II, GP and random."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autocompress.contract import Sampler
from autocompress.job import Job

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Tpe(Sampler):
    """Multivariate TPE, which learns from pruned trials."""

    name = "tpe"
    learns_from_pruned = True

    def make(self, job: Job, seed: int) -> BaseSampler:
        """Makes a TPE sampler; with several workers, it avoids draws near running trials."""
        from autocompress.compat.optuna import RememberingTPE

        with _experimental():
            return RememberingTPE(multivariate=True, group=True, constant_liar=job.workers > 1, seed=seed)


class Nsga2(Sampler):
    """NSGA-II, which works in generations, and so needs all trials."""

    name = "nsga2"
    sees_the_last = False

    def make(self, job: Job, seed: int) -> BaseSampler:
        """Makes an NSGA-II sampler with generations of at most a fifth of the trials.

        Optuna's default of 50 would use almost all of 60 trials for one random generation.
        """
        from optuna.samplers import NSGAIISampler

        with _experimental():
            return NSGAIISampler(population_size=max(4, min(50, job.budget.trials // 5)), seed=seed)


class Gp(Sampler):
    """Gaussian processes."""

    name = "gp"

    def make(self, job: Job, seed: int) -> BaseSampler:
        """Optuna's GP sampler, with its defaults."""
        from optuna.samplers import GPSampler

        del job
        with _experimental():
            return GPSampler(seed=seed)


class Random(Sampler):
    """Independent random draws."""

    name = "random"
    learns_from_pruned = True

    def make(self, job: Job, seed: int) -> BaseSampler:
        """Optuna's random sampler."""
        from optuna.samplers import RandomSampler

        del job
        return RandomSampler(seed=seed)


def builtin_samplers() -> list[Sampler]:
    """The samplers that come with autocompress."""
    return [Tpe(), Nsga2(), Gp(), Random()]


@contextmanager
def _experimental() -> Iterator[None]:
    """Silences warnings of Optuna about experimental features."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield

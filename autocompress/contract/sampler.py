"""Sampler: the interface for samplers, which draw the recipes of a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autocompress.job import Job


class Sampler(ABC):
    """Makes the Optuna sampler of a search. A job names it: ``sampler: NAME``.

    The sampler works in the process that drives the search. It draws recipes after the starting
    points and the proposals. It is told one value for each objective of the job, in the order of
    ``job.objectives`` and with the directions of the study. It is also told one constraint for each
    bound, and one for whether the recipe is valid: zero or less means met.
    """

    name: ClassVar[str]
    learns_from_pruned: ClassVar[bool] = False
    """Whether it uses pruned trials and their constraints.

    A recipe that misses a bound before its accuracy is known is told as PRUNED to such a sampler,
    and to others as COMPLETE with the worst accuracy.
    """
    sees_the_last: ClassVar[bool] = True
    """Whether it gets only the last 1,000 finished trials and the front; False for all of them."""

    def check(self, job: Job) -> list[str]:
        """Reasons why the sampler cannot be used in ``job``; empty where it can.

        A sampler for one objective says so here: ``len(job.objectives)``.
        """
        del job
        return []

    @abstractmethod
    def make(self, job: Job, seed: int) -> BaseSampler:
        """A new Optuna sampler.

        Args:
            job: job of the search; a sampler may depend on its objectives, budget or workers.
            seed: seed of every draw. A resumed search has another seed, so that it does not repeat
                the first draws of the search before.
        """

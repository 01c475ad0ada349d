"""A sampler of a plugin whose faults do not end the search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autocompress.compat.optuna import holds
from autocompress.contract import Sampler
from autocompress.contract.registration import reason
from autocompress.errors import Terminated
from autocompress.files import is_full_disk
from autocompress.job import Job
from autocompress.searching.storing.outages import StudyAway

log = logging.getLogger("autocompress.search")
Found = TypeVar("Found")


def make_sampler(sampler: Sampler, job: Job, told: int = 0) -> BaseSampler:
    """The Optuna sampler of ``job``, behind a guard.

    Args:
        sampler: sampler of the job.
        job: its seed, workers and budget are used.
        told: number of trials in the study. It shifts the seed, so that a resumed search does not
            draw its first random recipes again. A new search (0) uses the seed of the job.
    """
    return Guarded(sampler, job, job.seed + told)


class Guarded(BaseSampler):
    """Draws values by a sampler, and at random if it fails.

    A fault is an exception, or a value that the parameter does not allow. Each is logged once, with
    the name of the sampler.
    """

    def __init__(self, sampler: Sampler, job: Job, seed: int) -> None:
        self._name = sampler.name
        self._random = RandomSampler(seed=seed)
        self._told: set[str] = set()
        made = self._try("make", lambda: self._made(sampler, job, seed), None)
        self._own: BaseSampler = self._random if made is None else made

    def _made(self, sampler: Sampler, job: Job, seed: int) -> BaseSampler | None:
        made = sampler.make(job, seed)
        if not isinstance(made, BaseSampler):
            raise TypeError(f"make must return an Optuna sampler, not {type(made).__name__}")
        return made

    def __str__(self) -> str:
        return str(self._own)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space of :meth:`sample_relative`; empty if the sampler fails."""
        ask = self._own.infer_relative_search_space
        return self._try("infer_relative_search_space", lambda: dict(ask(study, trial)), {})

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values that lie in ``search_space``; the others are drawn one by one."""
        ask = self._own.sample_relative
        found: dict[str, Any] = self._try("sample_relative", lambda: dict(ask(study, trial, search_space)), {})
        wrong = [name for name, value in found.items() if name in search_space and not holds(search_space[name], value)]
        for name in wrong:
            self._tell("sample_relative", f"{name} cannot be {found.pop(name)!r}")
        return found

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """A value of one parameter; a random one if the sampler gives none."""

        def ask() -> Any:
            value = self._own.sample_independent(study, trial, param_name, param_distribution)
            if not holds(param_distribution, value):
                raise ValueError(f"{param_name} cannot be {value!r}")
            return value

        nothing = object()
        found = self._try("sample_independent", ask, nothing)
        if found is not nothing:
            return found
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Calls the same method of the guarded sampler."""
        self._try("before_trial", lambda: self._own.before_trial(study, trial), None)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Calls the same method of the guarded sampler."""
        self._try("after_trial", lambda: self._own.after_trial(study, trial, state, values), None)

    def reseed_rng(self) -> None:
        """Calls the same method of the guarded sampler."""
        self._own.reseed_rng()
        self._random.reseed_rng()

    def _try(self, what: str, ask: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return ask()
        except (Terminated, StudyAway, StorageInternalError):  # of the search, not of the sampler
            raise
        except (Exception, SystemExit) as error:
            if is_full_disk(error):  # the study is on it
                raise
            self._tell(what, reason(error))
            return otherwise

    def _tell(self, what: str, fault: str) -> None:
        if (text := f"{what}: {fault}") not in self._told:
            self._told.add(text)
            log.warning("the sampler '%s' failed in %s; values are drawn at random", self._name, text)

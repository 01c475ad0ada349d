"""Rules for samplers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from autocompress.compat.optuna import holds
from autocompress.contract import Sampler
from autocompress.job import Job
from autocompress.objectives.figures import directions
from autocompress.testing.example import example_job
from autocompress.testing.rules import Report, other_draws, require

TRIALS = 24
AHEAD = 3
"""Trials that run at the same time."""
OBJECTIVES: tuple[tuple[str, ...], ...] = (("accuracy", "latency"), ("accuracy",))
Drawn = list[dict[str, Any]]


def check_sampler(sampler: Sampler, job: Job | None = None) -> None:
    """Draws the recipes of small searches by the sampler, and checks them.

    The searches have one and two objectives, a space whose parameters depend on others, several
    trials at a time, recipes that were not drawn, and pruned and failed trials.

    Args:
        sampler: the sampler of the plugin.
        job: settings of the search; by default those of the example.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    job = job if job is not None else example_job()
    report = Report()
    report.check(_check_words, sampler)
    asked = [job.model_copy(update={"objectives": objectives}) for objectives in OBJECTIVES]
    usable = [one for one in asked if report.check(_usable, sampler, one)]
    if not usable and not report.rules:
        report.rules.append("check must return no reason for at least one of: accuracy and latency, accuracy alone")
    for one in usable:
        report.check(_check_draws, sampler, one)
    if usable:
        report.check(_check_made_anew, sampler, usable[0])
    report.end()


def _check_words(sampler: Sampler) -> None:
    for attribute in ("learns_from_pruned", "sees_the_last"):
        value = getattr(sampler, attribute)
        require(isinstance(value, bool), f"{attribute} must be True or False, not {value!r}")


def _usable(sampler: Sampler, job: Job) -> bool:
    reasons = sampler.check(job)
    require(
        isinstance(reasons, list) and all(isinstance(reason, str) and reason for reason in reasons),
        f"check must return a list of reasons, not {reasons!r}",
    )
    return not reasons


def _check_made_anew(sampler: Sampler, job: Job) -> None:
    require(sampler.make(job, 0) is not sampler.make(job, 0), "make must return a new sampler each time")


def _check_draws(sampler: Sampler, job: Job) -> None:
    count = len(job.objectives)
    about = f"with {count} objective{'s' if count > 1 else ''}"
    first, again, other = (_drawn(sampler, job, seed, draws, about) for seed, draws in ((7, 1), (7, 2), (8, 1)))
    require(
        first == again,
        f"{about}, equal seeds must give equal recipes: give seed to every generator, and draw from no global one",
    )
    require(first != other, f"{about}, another seed must give other recipes: a resumed search would repeat its first")
    require(len({tuple(sorted(one.items())) for one in first}) > TRIALS // 4, f"{about}, most recipes must be new ones")


def _drawn(sampler: Sampler, job: Job, seed: int, draws: int, about: str) -> Drawn:
    """The recipes of a small search, with the global generators at ``draws``."""
    with other_draws(draws, sampler), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = sampler.make(job, seed)
        require(isinstance(made, BaseSampler), f"make must return an Optuna sampler, not {type(made).__name__}")
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            return _searched(_Watched(made, about), job, about)
        finally:
            optuna.logging.set_verbosity(before)


def _searched(sampler: BaseSampler, job: Job, about: str) -> Drawn:
    study = optuna.create_study(directions=directions(job.objectives), sampler=sampler)
    study.enqueue_trial({"method": "b", "width": 2})
    drawn: Drawn = []
    running: list[Trial] = []
    for _ in range(TRIALS):
        running.append(trial := study.ask())
        drawn.append(_recipe(trial))
        if len(running) == AHEAD:
            _tell(study, running.pop(0), len(job.objectives))
    for trial in running:
        _tell(study, trial, len(job.objectives))
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    require(TrialState.RUNNING not in states, f"{about}, after_trial must let every trial end")
    return drawn


def _recipe(trial: Trial) -> dict[str, Any]:
    """A space like those of searches: its parameters depend on the values drawn before."""
    found: dict[str, Any] = {"method": trial.suggest_categorical("method", ["a", "b", "none"])}
    if found["method"] == "a":
        found["rate"] = trial.suggest_float("rate", 0.0, 0.7)
    if found["method"] == "b":
        found["width"] = trial.suggest_int("width", 1, 8)
    found["budget"] = trial.suggest_float("budget", 1 / 32, 1.0, log=True)
    found["epochs"] = trial.suggest_int("epochs", 0, 4, step=2)
    return found


def _tell(study: optuna.Study, trial: Trial, objectives: int) -> None:
    """One of six fails, one of three is pruned; the values of the others follow from parameters."""
    trial.set_constraint("latency", 1.0 if trial.number % 3 == 1 else -1.0)
    if trial.number % 6 == 5:
        study.tell(trial.number, state=TrialState.FAIL)
    elif trial.number % 3 == 1:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, [90.0 + trial.params["epochs"], float(trial.params["budget"])][:objectives])


class _Watched(BaseSampler):
    """Checks the values of a sampler, because Optuna silently replaces a wrong value by another."""

    def __init__(self, own: BaseSampler, about: str) -> None:
        self._own, self._about = own, about

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self._own.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Mapping[str, Any]) -> Any:
        found = self._own.sample_relative(study, trial, dict(search_space))
        unknown = [name for name in found if name not in search_space]
        require(
            not unknown, f"{self._about}, sample_relative must give values of its search space only, not {unknown[:3]}"
        )
        for name, value in found.items():
            self._check(name, search_space[name], value)
        return found

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        value = self._own.sample_independent(study, trial, param_name, param_distribution)
        self._check(param_name, param_distribution, value)
        return value

    def _check(self, name: str, distribution: Any, value: Any) -> None:
        require(
            holds(distribution, value),
            f"{self._about}, every value must lie in its parameter, with its step and type: "
            f"{name} cannot be {value!r} ({distribution})",
        )

    def before_trial(self, study: Any, trial: Any) -> None:
        self._own.before_trial(study, trial)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self._own.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._own.reseed_rng()

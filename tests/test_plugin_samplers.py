"""Samplers of plugins: a job names them, and their faults are named and do not end a search."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.authoring.examples.sampler import Example
from autocompress.contract import Manager, Sampler, hookimpl, manager
from autocompress.errors import UserError
from autocompress.job import Job, check_names, load_job, validate
from autocompress.job.early import BUILT_IN, SAMPLERS
from autocompress.searching import run
from autocompress.searching.sampling.guarded import make_sampler
from autocompress.searching.storing.outages import StudyAway
from autocompress.searching.study import Study
from autocompress.testing import ContractViolation, check_sampler

ASKED: list[str] = []


class Counting(Sampler):
    """Random draws that are counted."""

    name = "counting"

    def make(self, job: Job, seed: int) -> BaseSampler:
        class Counted(RandomSampler):
            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                ASKED.append(param_name)
                return super().sample_independent(study, trial, param_name, param_distribution)

        return Counted(seed=seed)


@pytest.fixture
def registered() -> Iterator[Any]:
    """Registers samplers for one test."""
    added: list[object] = []

    def register(*samplers: Sampler) -> None:
        plugin = SimpleNamespace(autocompress_samplers=hookimpl(lambda: list(samplers)))
        manager().register(plugin)
        added.append(plugin)

    yield register
    for plugin in added:
        manager().unregister(plugin)


def test_a_search_draws_from_a_sampler_by_name(tmp_path: Path, registered: Any, search_here: Any) -> None:
    registered(Counting())
    ASKED.clear()
    offer_toy_device()
    found = run.search(toy_job(tmp_path, sampler="counting", budget={"trials": 6}), opener=open_toy)
    assert len(found.trials) == 6
    assert ASKED


EARLY = """
import sys
from pathlib import Path
from autocompress.errors import UserError
from autocompress.job import check_names, load_job
try:
    check_names(load_job(Path(sys.argv[1])))
except UserError as error:
    print(error)
print("torch" in sys.modules)
"""


def test_an_unknown_sampler_is_refused_with_its_line_before_torch_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("model: test_resnet\ndata: digits\nsampler: tpee\n")
    words = r"job.yaml:3: 'sampler' names no sampler: 'tpee' \(did you mean 'tpe'\?\)"
    with pytest.raises(UserError, match=words):
        validate(load_job(file), manager())
    told = subprocess.run([sys.executable, "-c", EARLY, str(file)], capture_output=True, text=True, check=True).stdout
    assert re.search(words, told)
    assert told.splitlines()[-1] == "False", "torch takes seconds to import"


def test_names_known_before_torch_is_imported_are_those_of_the_built_in_samplers() -> None:
    own = [one.name for one in manager().samplers() if manager().maker(one) == BUILT_IN]
    assert sorted(SAMPLERS) == sorted(own)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("only", r"'sampler' cannot be 'faulty' here: it takes one objective"),
        ("make", r"'sampler' cannot be 'faulty' here: it raised ImportError: no such library"),
    ],
)
def test_a_sampler_that_cannot_be_used_gives_one_sentence_before_the_search(
    registered: Any, fault: str, words: str
) -> None:
    class Faulty(Counting):
        name = "faulty"

        def check(self, job: Job) -> list[str]:
            return ["it takes one objective"] if fault == "only" else []

        def make(self, job: Job, seed: int) -> BaseSampler:
            raise ImportError("no such library")

    registered(Faulty())
    job = load_job(model="test_resnet", data="digits", sampler="faulty")
    check_names(job)
    with pytest.raises(UserError, match=words):
        validate(job, manager())


# --- faults in a search ---------------------------------------------------------------------------


class Failing(Sampler):
    """Fails in one of its functions, or returns a wrong value."""

    name = "failing"

    def __init__(self, where: str) -> None:
        self.where = where

    def make(self, job: Job, seed: int) -> BaseSampler:
        where = self.where

        class Fails(RandomSampler):
            def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
                if where == "infer_relative_search_space":
                    raise KeyError("lost")
                return {"x": optuna.distributions.IntDistribution(0, 3)} if where == "sample_relative" else {}

            def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
                return {"x": 99} if where == "sample_relative" else {}

            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                if where == "sample_independent":
                    raise RuntimeError("tired")
                if where == "value":
                    return "not a number"
                return super().sample_independent(study, trial, param_name, param_distribution)

            def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
                if where == "after_trial":
                    raise SystemExit(3)

        return Fails(seed=seed)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("infer_relative_search_space", "infer_relative_search_space: KeyError: 'lost'"),
        ("sample_relative", "sample_relative: x cannot be 99"),
        ("sample_independent", "sample_independent: RuntimeError: tired"),
        ("value", "sample_independent: ValueError: x cannot be 'not a number'"),
        ("after_trial", "after_trial: SystemExit: 3"),
    ],
)
def test_a_sampler_that_fails_is_named_once_and_draws_become_random(
    where: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = load_job(model="test_resnet", data="digits")
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(Failing(where), job))
    for _ in range(4):
        trial = study.ask()
        assert 0 <= trial.suggest_int("x", 0, 3) <= 3
        study.tell(trial, [1.0, 2.0])
    told = [record.getMessage() for record in caplog.records if "sampler" in record.getMessage()]
    assert told == [f"the sampler 'failing' failed in {words}; values are drawn at random"]


def test_a_lost_study_is_no_fault_of_the_sampler() -> None:
    class Lost(Base):
        def make(self, job: Job, seed: int) -> BaseSampler:
            raise lost

    job = load_job(model="test_resnet", data="digits")
    for lost in (StudyAway("the server has lost 3 changes"), StorageInternalError("no such table")):
        with pytest.raises(type(lost)):
            make_sampler(Lost(), job)


def test_verdicts_depend_on_whether_a_sampler_learns_from_pruned_trials(tmp_path: Path, registered: Any) -> None:
    class Learner(Counting):
        name = "learner"
        learns_from_pruned = True

    registered(Counting(), Learner())
    states = []
    for name in ("counting", "learner"):
        job = toy_job(tmp_path, sampler=name, name=name, constraints={"latency": "0.5x"})
        job.folder.mkdir()
        study = Study(job.folder, job, {"accuracy": 90.0})
        row = {"trial": 0, "status": "infeasible", "latency_ratio": 0.9, "excess": {"latency": 0.4}}
        states.append(study._verdict(row).state.name)
    assert states == ["COMPLETE", "PRUNED"]


# --- conformance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_built_in_samplers_conform(name: str) -> None:
    check_sampler(manager().sampler(name))


class Base(Sampler):
    name = "base"

    def make(self, job: Job, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)


class IgnoresTheSeed(Base):
    """equal seeds must give equal recipes"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        return RandomSampler()


class AlwaysTheSameSeed(Base):
    """another seed must give other recipes"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        return RandomSampler(seed=0)


class DrawsFromNumpy(Base):
    """draw from no global one"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        class Global(RandomSampler):
            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                low, high = getattr(param_distribution, "low", None), getattr(param_distribution, "high", None)
                if isinstance(low, float) and isinstance(high, float):
                    return float(np.random.uniform(low, high))
                return super().sample_independent(study, trial, param_name, param_distribution)

        return Global(seed=seed)


class OneObjectiveOnly(Base):
    """a plugin must not raise ValueError here: one objective only"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        class Single(RandomSampler):
            def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
                if len(study.directions) > 1:
                    raise ValueError("one objective only")
                return {}

        return Single(seed=seed)


class IgnoresTheStep(Base):
    """every value must lie in its parameter, with its step and type: epochs"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        class Odd(RandomSampler):
            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                value = super().sample_independent(study, trial, param_name, param_distribution)
                return 1 if param_name == "epochs" else value

        return Odd(seed=seed)


class AlwaysTheSame(Base):
    """most recipes must be new ones"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        class Stuck(RandomSampler):
            def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
                choices = getattr(param_distribution, "choices", None)
                return choices[seed % len(choices)] if choices else param_distribution.low

        return Stuck(seed=seed)


class KeepsOne(Base):
    """make must return a new sampler each time"""

    kept = RandomSampler(seed=0)

    def make(self, job: Job, seed: int) -> BaseSampler:
        return self.kept


class NoSampler(Base):
    """make must return an Optuna sampler, not str"""

    def make(self, job: Job, seed: int) -> BaseSampler:
        return "tpe"  # type: ignore[return-value]


class WrongFlag(Base):
    """sees_the_last must be True or False, not 'yes'"""

    sees_the_last = "yes"  # type: ignore[assignment]


class RaisesInCheck(Base):
    """a plugin must not raise AttributeError here"""

    def check(self, job: Job) -> list[str]:
        return job.nothing  # type: ignore[attr-defined]


MISTAKES = [
    IgnoresTheSeed,
    AlwaysTheSameSeed,
    DrawsFromNumpy,
    OneObjectiveOnly,
    IgnoresTheStep,
    AlwaysTheSame,
    KeepsOne,
    NoSampler,
    WrongFlag,
    RaisesInCheck,
]


@pytest.mark.parametrize("broken", MISTAKES, ids=lambda broken: broken.__name__)
def test_a_mistake_of_a_sampler_is_found(broken: type[Sampler]) -> None:
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_sampler(broken())


def test_a_sampler_that_refuses_several_objectives_conforms() -> None:
    class Single(Base):
        def check(self, job: Job) -> list[str]:
            return ["it takes one objective"] if len(job.objectives) > 1 else []

    check_sampler(Single())


def test_the_example_draws_evenly() -> None:
    job = load_job(model="test_resnet", data="digits")
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=Example().make(job, 0))
    values = []
    for _ in range(33):
        trial = study.ask()
        values.append(trial.suggest_float("x", 0.0, 1.0))
        study.tell(trial, [0.0, 0.0])
    counts = np.histogram(values[1:], bins=8, range=(0, 1))[0]
    assert counts.min() >= 3, "a Sobol sequence covers all parts of the space"


def test_a_sampler_with_the_name_of_a_built_in_one_is_named_and_not_used() -> None:
    class Twin(Base):
        name = "tpe"

    found = Manager([SimpleNamespace(autocompress_samplers=hookimpl(lambda: [Twin()]))])
    assert type(found.sampler("tpe")).__module__.startswith("autocompress.")
    assert any("'tpe' has a name that plugin 'builtin' uses already" in broken.reason for broken in found.broken)

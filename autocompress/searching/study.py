"""The study: asks for recipes, and tells the sampler the row of each.

A recipe is drawn by the sampler, or was enqueued. Enqueued are starting points, proposals, and
recipes that were interrupted; they are asked before the sampler draws. No recipe is tried twice.
``searching.records`` has everything else that a study records.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autocompress.compat.optuna import attributes_of, fail_waiting, frozen_enqueued_values, running_trial
from autocompress.contract import Manager, manager_for
from autocompress.contract.raised import raised
from autocompress.contract.space import Chooser, Value
from autocompress.errors import InvalidRecipe, UserError
from autocompress.files import digest
from autocompress.job import Job
from autocompress.objectives.figures import directions
from autocompress.proposals.proposer import Proposed
from autocompress.results import Row
from autocompress.searching.asked import Asked
from autocompress.searching.promotion.untrained import EPOCHS, epochs_are_drawn
from autocompress.searching.records import Records, has_row
from autocompress.searching.sampling.chooser import OptunaChooser
from autocompress.searching.sampling.guarded import make_sampler
from autocompress.searching.sampling.telling import Verdict, verdict
from autocompress.searching.storing.opening import study_of
from autocompress.searching.storing.outages import StudyAway
from autocompress.searching.windowed import WINDOW, Windowed

DRIVER = "driver"
"""The study attribute with the process that drives the search."""
RE_ASKS = 16
"""Repeats in a row after which draws are random.

A sampler may repeat itself before the space is exhausted.
"""
RANDOM_RE_ASKS = 100
"""Random repeats in a row after which the space is treated as exhausted."""

Points = Sequence[tuple[str, Mapping[str, Value]]]
"""Recipes to enqueue: label and values of each."""
Compose = Callable[[Chooser], Any]
"""Makes a recipe from the values of a chooser."""
log = logging.getLogger("autocompress.search")


class Study(Records):
    """The study of one search.

    Args:
        folder: ``results/<name>``.
        job: job of the search.
        baseline: the row of the baseline, with which costs are compared.
        plugins: where the sampler of the job is found; by default, the plugins of this process.

    Raises:
        UserError: if the study cannot be read, or is not stored where ``search.storage`` of the job
            says.
    """

    def __init__(self, folder: Path, job: Job, baseline: Mapping[str, Any], plugins: Manager | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.job = job
        self.baseline = baseline
        sampler = (plugins or manager_for(job)).sampler(job.sampler)
        self._learns_from_pruned = sampler.learns_from_pruned
        kept = study_of(folder, job.search.storage, job.name)
        self.note = kept.note
        windowed = Windowed(kept.storage, WINDOW if sampler.sees_the_last else None)
        optuna_study = optuna.create_study(
            storage=windowed, study_name=kept.name, directions=directions(job.objectives), load_if_exists=True
        )
        super().__init__(optuna_study, windowed, kept.storage.get_study_id_from_name(kept.name))
        self._is_shared = kept.is_shared
        self._driver: str | None = None
        trials = self._trials.everything(self._id)
        self._study.sampler = make_sampler(sampler, job, told=sum(trial.state.is_finished() for trial in trials))
        self._choices: dict[str, BaseDistribution] = {
            name: distribution
            for trial in trials
            for name, distribution in trial.distributions.items()
            if isinstance(distribution, CategoricalDistribution)
        }
        self._undrawn = () if epochs_are_drawn(job) else (EPOCHS,)
        self.proposed: Proposed | None = None
        """Computes widths from the sampler's draws; None until tables are measured."""
        self.before_ask: Callable[[bool], None] | None = None
        """Called before each ask; the argument says whether a recipe is enqueued."""
        self._started: dict[str, int] = {}
        """The number of the trial that ran or runs a recipe, by recipe key."""
        self._followers: dict[int, list[int]] = {}
        """Trials that drew a recipe while another trial ran it, by the number of the latter."""
        for trial in trials:
            if "recipe_key" in trial.user_attrs and (has_row(trial) or trial.state == TrialState.RUNNING):
                self._started.setdefault(trial.user_attrs["recipe_key"], trial.number)

    def claim(self) -> None:
        """Makes this process the driver of a study on a server; the previous driver then ends.

        Call it after all checks, so that a resume that is refused does not end a running search.
        """
        if self._is_shared:
            self._driver = uuid.uuid4().hex
            self._study.set_user_attr(DRIVER, self._driver)

    def _check_driver(self) -> None:
        """Checks that no other process has become the driver of the study.

        Raises:
            UserError: if another one has.
        """
        if self._driver is not None and attributes_of(self._study).get(DRIVER) != self._driver:
            raise UserError(f"another process continues the study {self._study.study_name}", "this one ends")

    # --- recipes that wait ------------------------------------------------------------------------

    def enqueue(self, values: Mapping[str, Value], label: str = "") -> None:
        """Enqueues a recipe: it is asked before the sampler draws the next."""
        self._study.enqueue_trial(dict(values), user_attrs={"label": label} if label else None)

    @property
    def is_new(self) -> bool:
        """Whether no recipe was asked and the starting points are not yet enqueued."""
        asked = any("recipe_key" in trial.user_attrs for trial in self._trials.everything(self._id))
        return not (asked or self._study.user_attrs.get("prepared", False))

    def enqueue_starting_points(self, points: Points) -> None:
        """Enqueues ``points`` in place of all recipes that wait.

        If the search is killed in between, the next start enqueues them again.
        """
        self._drop(self._waiting())
        for label, values in points:
            self.enqueue(values, label)
        self._study.set_user_attr("prepared", True)

    @property
    def is_proposed(self) -> bool:
        """Whether the proposals are enqueued."""
        return bool(self._study.user_attrs.get("proposed", False))

    def enqueue_proposals(self, points: Points, *, before_others: bool = False) -> None:
        """Enqueues ``points`` behind the recipes that wait, or before them.

        If the search is killed in between, the next start enqueues them again. This costs nothing:
        a recipe that was tried is not run again, and the sampler gets the stored row.
        """
        waiting = self._waiting() if before_others else []
        for label, values in points:
            self.enqueue(values, label)
        self._enqueue_again(waiting)
        self._drop(waiting)
        self._study.set_user_attr("proposed", True)

    @property
    def is_waiting(self) -> bool:
        """Whether a recipe is enqueued and not yet asked."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def waiting(self) -> list[dict[str, Value]]:
        """The values of the recipes that are enqueued and not yet asked."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return [dict(frozen_enqueued_values(trial)) for trial in trials]

    def drop_waiting(self, is_useless: Callable[[Mapping[str, Value]], bool]) -> int:
        """Removes enqueued recipes.

        Args:
            is_useless: whether to remove a recipe, given its values.

        Returns:
            The number of removed recipes.
        """
        useless = [trial for trial in self._waiting() if is_useless(frozen_enqueued_values(trial))]
        self._drop(useless)
        return len(useless)

    def _waiting(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=True, states=(TrialState.WAITING,))

    def _move_to_front(self, trials: Iterable[FrozenTrial]) -> None:
        """Enqueues the recipes of ``trials`` before those that wait.

        Optuna asks waiting trials in the order of their numbers, so all others get new numbers. A
        recipe that waits twice costs nothing.
        """
        waiting = self._waiting()
        self._enqueue_again(trials)
        self._enqueue_again(waiting)
        self._drop(waiting)

    def _enqueue_again(self, trials: Iterable[FrozenTrial]) -> None:
        """Enqueues the recipes of ``trials`` behind all that wait."""
        for trial in trials:
            # Tied parameters share one parameter of the trial. An enqueued recipe has all values.
            wanted = {**trial.params, **frozen_enqueued_values(trial)}
            if wanted:
                self.enqueue(wanted, trial.user_attrs.get("label", ""))

    def _drop(self, waiting: Iterable[FrozenTrial]) -> None:
        """Tells Optuna that waiting trials failed, so that they are not asked."""
        for trial in waiting:
            fail_waiting(self._study, trial)

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, compose: Compose) -> Asked | None:
        """The next recipe that was not tried yet.

        If a finished recipe is drawn again, the sampler is told its stored row. If a running recipe
        is drawn again, the sampler is told the row when it is there. In both cases, another recipe
        is drawn. A draw that is no valid recipe gets its row at once and is returned;
        ``row(asked.number)`` has the row.

        Args:
            compose: makes a recipe from the drawn values.

        Returns:
            None if the space is exhausted: ``RANDOM_RE_ASKS`` random draws in a row were repeats.
        """
        for draw in range(RE_ASKS + RANDOM_RE_ASKS):
            if self.before_ask is not None:
                self.before_ask(self.is_waiting)
            with self._trials.together(), self._random() if draw >= RE_ASKS else nullcontext():
                trial = self._study.ask()
                asked, twin = self._draw(trial, compose)
            if twin is None:
                return asked
        return None

    def _draw(self, trial: Trial, compose: Compose) -> tuple[Asked, int | None]:
        """The recipe that ``trial`` drew, and the number of an earlier trial of it, if any."""
        label = trial.user_attrs.get("label", "")
        try:
            recipe = compose(OptunaChooser(trial, self._choices, self.proposed, self._undrawn))
            key, values, row = recipe.key, dict(recipe.values), None
        except (StudyAway, StorageInternalError):  # errors of the study itself
            raise
        except Exception as error:  # an error of a plugin must not end the search
            key, values = digest("invalid", trial.params), dict(trial.params)
            row = unbuilt_row(Asked(trial.number, values, label), error)
        trial.set_user_attr("recipe_key", key)
        twin = self._started.setdefault(key, trial.number)
        asked = Asked(trial.number, values, label)
        if twin == trial.number:
            if row is not None:
                self.tell(trial.number, row)
            return asked, None
        trial.set_user_attr("repeats", twin)
        if (known := self.told_row(twin)) is None:
            self._followers.setdefault(twin, []).append(trial.number)
        else:
            self._tell(trial.number, self._verdict(known))
        return asked, twin

    def _random(self) -> _Sampler:
        return _Sampler(self._study, RandomSampler(seed=self.job.seed + self._trials.get_n_trials(self._id)))

    # --- telling ----------------------------------------------------------------------------------

    def keep(self, number: int, row: Row) -> None:
        """Stores the row of a worker, for rung 0 or a higher rung. A second call changes nothing.

        Raises:
            UserError: if another process has become the driver of the study.
        """
        self._check_driver()
        reached = int(row.get("reached", 0))
        if not reached:
            self.tell(number, row)
        elif (known := self.row(number)) is not None and int(known.get("reached", 0)) < reached:
            self.amend(number, row)

    def tell(self, number: int, row: Row) -> None:
        """Stores the row of a trial and tells the sampler, unless the trial was told already."""
        if not self._is_running(number):
            return
        with self._trials.together():
            self._trial(number).set_user_attr("row", row)
            self._tell(number, self._verdict(row))

    def tell_followers(self, number: int) -> None:
        """Tells the trials that drew the recipe of ``number`` while it ran."""
        row = self.told_row(number)
        with self._trials.together():
            for follower in self._followers.pop(number, []):
                if row is not None:
                    self._tell(follower, self._verdict(row))

    def _tell(self, number: int, told: Verdict) -> None:
        trial = self._trial(number)
        for name, value in told.constraints.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)
        self._study.tell(number, told.values, told.state, skip_if_finished=True)

    def _verdict(self, row: Row) -> Verdict:
        return verdict(self.job, row, self.baseline, learns_from_pruned=self._learns_from_pruned)

    def _trial(self, number: int) -> Trial:
        return running_trial(self._study, self._trials.of(self._id, number))

    def _is_running(self, number: int) -> bool:
        return self._trials.of(self._id, number).state == TrialState.RUNNING

    # --- after a crash or an interruption ---------------------------------------------------------

    def recover(self) -> int:
        """Finishes trials that were interrupted. Call it only if no worker runs.

        If a trial or an earlier one with its recipe has a row, Optuna is told that row. All others
        are told as FAIL, and their recipes are enqueued again, before the recipes that wait.

        Returns:
            The number of recipes that will be tried again.
        """
        self._trials.everything(self._id)  # reads the trials from the storage
        again: dict[str, FrozenTrial] = {}
        lost: list[FrozenTrial] = []
        for trial in self._study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
            key = trial.user_attrs.get("recipe_key")
            row = trial.user_attrs["row"] if has_row(trial) else None if key is None else self._told_row_of(key)
            if row is not None:
                self._tell(trial.number, self._verdict(row))
                continue
            lost.append(trial)
            again.setdefault(key or f"unfinished draw {trial.number}", trial)
        for key in again:
            self._started.pop(key, None)
        if again:
            self._move_to_front(again.values())
        for trial in lost:  # last, so that no recipe is lost if this process is killed in between
            self._trial(trial.number).set_user_attr("interrupted", True)
            self._study.tell(trial.number, state=TrialState.FAIL)
        self._followers.clear()
        return len(again)

    def _told_row_of(self, key: str) -> Row | None:
        number = self._started.get(key)
        return None if number is None else self.told_row(number)


class _Sampler:
    """Gives a study another sampler while the context is open."""

    def __init__(self, study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> None:
        self._study, self._other = study, sampler

    def __enter__(self) -> None:
        self._own, self._study.sampler = self._study.sampler, self._other

    def __exit__(self, *_: object) -> None:
        self._study.sampler = self._own


def unbuilt_row(asked: Asked, error: Exception) -> Row:
    """The row of a draw that is no valid recipe: methods exclude each other, or a method failed."""
    row: Row = {"trial": asked.number, "seconds": 0.0, "rung": 0, "recipe": asked.values, "label": asked.label}
    if isinstance(error, InvalidRecipe):
        return {**row, "status": "infeasible", "reason": str(error), "excess": {"valid": 1.0}}
    log.error("trial %d failed in compose", asked.number, exc_info=error)
    return {**row, "status": "failed", "reason": f"compose: {raised(error)}"}

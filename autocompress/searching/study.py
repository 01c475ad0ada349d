"""The study: every recipe asked and every row told, on disk.

With trials.csv, written from it, the only truth.

Optuna's journal file holds it (``optuna-dashboard study.journal`` shows a run), or a server (see
``searching.storing``). Only the driver writes to it: workers send their rows (see
``searching.spool``).
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
from autocompress.contract.space import Chooser, Value
from autocompress.errors import InvalidRecipe, UserError
from autocompress.files import digest
from autocompress.job import Job
from autocompress.objectives.figures import directions
from autocompress.proposals.proposer import Proposed
from autocompress.results import Row, read_trials
from autocompress.searching.asked import Asked
from autocompress.searching.climbing.untrained import EPOCHS, epochs_are_drawn
from autocompress.searching.dashboard import offer
from autocompress.searching.sampling.chooser import OptunaChooser
from autocompress.searching.sampling.guarded import make_sampler
from autocompress.searching.sampling.telling import Verdict, verdict
from autocompress.searching.storing.opening import has_study, study_of
from autocompress.searching.storing.outages import StudyAway
from autocompress.searching.windowed import WINDOW, Windowed

BEGUN, DRIVER = "begun_with", "driver"
AMENDED, PROMOTED = "amended:", "promoted:"
"""How names of study attributes begin that belong to one trial; its number follows."""
RE_ASKS = 16
"""Repeats in a row after which the next draws are random: a sampler that insists is not yet an
exhausted space.
"""
RANDOM_RE_ASKS = 100
"""Random repeats in a row after which the space counts as exhausted."""

Compose = Callable[[Chooser], Any]
log = logging.getLogger("autocompress.search")


def _attributes(folder: Path, url: str | None) -> Mapping[str, Any]:
    """The attributes of the study of the run in ``folder``; empty where there is none."""
    if not has_study(folder):
        return {}
    kept = study_of(folder, url, "")
    try:
        found: dict[str, Any] = kept.storage.get_study_user_attrs(kept.storage.get_study_id_from_name(kept.name))
    except KeyError:
        if kept.is_shared and not read_trials(folder).empty:
            raise UserError(
                f"the study {kept.name} of {folder} is not on {url}",
                "bring it back there, or start another search: without it, a resume would replace the finished trials",
            ) from None
        return {}
    return found


def read_begun(folder: Path, url: str | None = None) -> dict[str, Any] | None:
    """What the search in ``folder`` began with; None without a study or with an old one.

    Args:
        folder: of the run.
        url: of the server that keeps the study; None for a file in ``folder``.

    Raises:
        UserError: if the run has rows, and the server has lost its study.
    """
    return _attributes(folder, url).get(BEGUN)


def read_baseline_key(folder: Path, url: str | None = None) -> str | None:
    """Key of the baseline that the search in ``folder`` began with; None where nothing says it.

    The arguments are those of :func:`read_begun`.
    """
    return _attributes(folder, url).get("baseline_key")


class Study:
    """The trials of one search.

    Args:
        folder: ``results/<name>``.
        job: of the search.
        baseline: the baseline's row; costs are judged against it.
        plugins: have the sampler of the job; by default those of this process.
    """

    def __init__(self, folder: Path, job: Job, baseline: Mapping[str, Any], plugins: Manager | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.job = job
        self.baseline = baseline
        sampler = (plugins or manager_for(job)).sampler(job.sampler)
        self._learns_from_pruned = sampler.learns_from_pruned
        kept = study_of(folder, job.search.storage, job.name)
        self.note = kept.note
        self._trials = Windowed(kept.storage, WINDOW if sampler.sees_the_last else None)
        sought = directions(job.objectives)
        self._study = optuna.create_study(
            storage=self._trials, study_name=kept.name, directions=sought, load_if_exists=True
        )
        self._id = kept.storage.get_study_id_from_name(kept.name)
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
        """Makes widths of the sampler's draws, once tables are measured."""
        self.before_ask: Callable[[bool], None] | None = None
        """Called before each recipe is asked, and told whether one is waiting."""
        self._started: dict[str, int] = {}
        """Number of the trial that ran, or is running, by recipe key."""
        self._followers: dict[int, list[int]] = {}
        """Trials that drew a recipe that was still running, by the number of the running one."""
        for trial in trials:
            if "recipe_key" in trial.user_attrs and ("row" in trial.user_attrs or trial.state == TrialState.RUNNING):
                self._started.setdefault(trial.user_attrs["recipe_key"], trial.number)

    def claim(self) -> None:
        """Becomes the driver of a study on a server; a process that drives it so far ends.

        Call it after all checks, so that a resume that is refused ends no running search.
        """
        if self._is_shared:
            self._driver = uuid.uuid4().hex
            self._study.set_user_attr(DRIVER, self._driver)

    # --- what is there ----------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """The row of every trial that was run, in the order of their numbers; repeats have none."""
        found = attributes_of(self._study)
        return [self._amended_row(trial, found) for trial in self._trials.everything(self._id) if _has_row(trial)]

    def row(self, number: int) -> Row | None:
        """The row of one trial, or None while it has none."""
        trial = self._trials.of(self._id, number)
        return self._amended_row(trial, attributes_of(self._study)) if _has_row(trial) else None

    def told_row(self, number: int) -> Row | None:
        """The row of one trial as the sampler was told it: of rung 0; None while it has none."""
        found: Row | None = self._trials.of(self._id, number).user_attrs.get("row")
        return found

    @property
    def is_new(self) -> bool:
        """Whether starting points are still to be enqueued and no recipe was asked."""
        asked = any("recipe_key" in trial.user_attrs for trial in self._trials.everything(self._id))
        return not (asked or self._study.user_attrs.get("prepared", False))

    def enqueue_starting_points(self, points: Sequence[tuple[str, Mapping[str, Value]]]) -> None:
        """Has ``points``, labels and values, asked first.

        A search that was killed meanwhile begins with them anew.
        """
        self._drop(self._study.get_trials(deepcopy=True, states=(TrialState.WAITING,)))
        for label, values in points:
            self.enqueue(values, label)
        self._study.set_user_attr("prepared", True)

    @property
    def is_proposed(self) -> bool:
        """The proposals are enqueued."""
        return bool(self._study.user_attrs.get("proposed", False))

    def enqueue_proposals(
        self, points: Sequence[tuple[str, Mapping[str, Value]]], *, before_others: bool = False
    ) -> None:
        """Has ``points``, labels and values, asked after what waits already, or before it.

        A search that was killed meanwhile repeats it, which costs nothing: recipes that were tried
        are told again."""
        waiting = self._study.get_trials(deepcopy=True, states=(TrialState.WAITING,)) if before_others else []
        for label, values in points:
            self.enqueue(values, label)
        self._enqueue_again(waiting)
        self._drop(waiting)
        self._study.set_user_attr("proposed", True)

    @property
    def is_waiting(self) -> bool:
        """Whether a recipe is enqueued that was not asked yet."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def waiting(self) -> list[dict[str, Value]]:
        """The values of the recipes that wait."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return [dict(frozen_enqueued_values(trial)) for trial in trials]

    def drop_waiting(self, is_useless: Callable[[Mapping[str, Value]], bool]) -> int:
        """Settles the waiting recipes that ``is_useless`` says so of, by their values.

        Returns:
            How many there were.
        """
        waiting = self._study.get_trials(deepcopy=True, states=(TrialState.WAITING,))
        useless = [trial for trial in waiting if is_useless(frozen_enqueued_values(trial))]
        self._drop(useless)
        return len(useless)

    @property
    def seconds(self) -> float:
        """Wall time spent on this search so far, over all its runs."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def spend(self, seconds: float) -> None:
        """Records the wall time spent so far."""
        self._study.set_user_attr("seconds", round(seconds, 3))

    def offer(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Makes ``files`` artifacts of the study, for optuna-dashboard (``searching.dashboard``).

        What cannot be written there is logged: the run has it anyhow.
        """
        try:
            offer(self._study, folder, files)
        except Exception as error:  # libraries of databases have errors of many kinds
            log.warning("optuna-dashboard will not show the models: %s", error)

    @property
    def baseline_key(self) -> str | None:
        """Of the baseline that the search began with, where it has one."""
        return self._study.user_attrs.get("baseline_key")

    def keep_baseline_key(self, key: str) -> None:
        """Records the baseline that this search compares with."""
        self._study.set_user_attr("baseline_key", key)

    @property
    def images(self) -> dict[str, str] | None:
        """Digests of the search's first images; None where an earlier version began it."""
        return self._study.user_attrs.get("images")

    def keep_images(self, digests: Mapping[str, str]) -> None:
        """Records the images that the rows are judged on (see ``searching.begun.images_of``)."""
        self._study.set_user_attr("images", dict(digests))

    def keep_begun(self, begun: Mapping[str, Any]) -> None:
        """Records what the search began with (see ``searching.begun``), unless that is known."""
        if BEGUN not in self._study.user_attrs:
            self._study.set_user_attr(BEGUN, dict(begun))

    def amend(self, number: int, row: Row) -> None:
        """Replaces a row that was told, by one of a higher rung for example.

        It is kept beside the trials, since Optuna changes no finished trial. The sampler hears
        nothing of it: it is told one fidelity.
        """
        self._study.set_user_attr(f"{AMENDED}{number}", row)

    def _amended_row(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> Row:
        old = attributes.get("amended", {}).get(str(trial.number))  # as earlier versions kept it
        found: Row = attributes.get(f"{AMENDED}{trial.number}", old or trial.user_attrs["row"])
        return found

    def promote(self, number: int, rung: int) -> None:
        """Records that a recipe is to be trained at ``rung``, before a worker gets it."""
        self._study.set_user_attr(f"{PROMOTED}{number}", rung)

    def promoted(self) -> dict[int, int]:
        """The highest rung that each recipe was promoted to, by number."""
        found = attributes_of(self._study)
        return {int(name[len(PROMOTED) :]): rung for name, rung in found.items() if name.startswith(PROMOTED)}

    # --- asking -----------------------------------------------------------------------------------

    def enqueue(self, values: Mapping[str, Value], label: str = "") -> None:
        """Has ``values`` asked before the sampler's own draws."""
        self._study.enqueue_trial(dict(values), user_attrs={"label": label} if label else None)

    def ask(self, compose: Compose) -> Asked | None:
        """The next recipe that was never tried.

        Draws of finished recipes are told again from their rows and cost nothing; draws of running
        ones wait for their row; draws that cannot be built get their row here and now.

        Returns:
            None where the space is exhausted, as far as ``RANDOM_RE_ASKS`` repeats in a row can
            tell. An invalid draw is returned too: its row is there already (``row(asked.number)``).
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
        """What ``trial`` drew, and the number of an earlier trial with the same recipe, if any."""
        label = trial.user_attrs.get("label", "")
        try:
            recipe = compose(OptunaChooser(trial, self._choices, self.proposed, self._undrawn))
            key, values, row = recipe.key, dict(recipe.values), None
        except (StudyAway, StorageInternalError):  # of the study, not of the recipe
            raise
        except Exception as error:  # a plugin's fault must not end the search
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
        """Keeps a row that a worker made, of the trial or of a higher rung of it; twice is once."""
        self._check_driver()
        reached = int(row.get("reached", 0))
        if not reached:
            self.tell(number, row)
        elif (known := self.row(number)) is not None and int(known.get("reached", 0)) < reached:
            self.amend(number, row)

    def tell(self, number: int, row: Row) -> None:
        """Keeps a trial's row and tells the sampler.

        The row of a trial that was told already stays.
        """
        if not self._is_running(number):
            return
        with self._trials.together():
            self._trial(number).set_user_attr("row", row)
            self._tell(number, self._verdict(row))

    def _check_driver(self) -> None:
        """Refuses to go on with a study on a server that another process has taken over.

        Raises:
            UserError: if it has.
        """
        if self._driver is not None and attributes_of(self._study).get(DRIVER) != self._driver:
            raise UserError(f"another process goes on with the study {self._study.study_name}", "this one ends")

    def tell_followers(self, number: int) -> None:
        """Tells those that drew the recipe of ``number`` while it ran."""
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
        """Settles trials that nobody runs any more. Call it only when no worker is left.

        A trial that has its row is told from it. The others are told FAIL, and their recipes are
        enqueued again, before everything that waits already.

        Returns:
            How many recipes will be tried again.
        """
        self._trials.everything(self._id)  # as the file has them
        again: dict[str, FrozenTrial] = {}
        lost: list[FrozenTrial] = []
        for trial in self._study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
            key = trial.user_attrs.get("recipe_key")
            row = trial.user_attrs["row"] if _has_row(trial) else None if key is None else self._told_row_of(key)
            if row is not None:
                self._tell(trial.number, self._verdict(row))
                continue
            lost.append(trial)
            again.setdefault(key or f"unfinished draw {trial.number}", trial)
        for key in again:
            self._started.pop(key, None)
        if again:
            self._move_to_front(again.values())
        for trial in lost:  # last, so that no recipe is forgotten where this process is killed in between
            self._trial(trial.number).set_user_attr("interrupted", True)
            self._study.tell(trial.number, state=TrialState.FAIL)
        self._followers.clear()
        return len(again)

    def _move_to_front(self, trials: Iterable[FrozenTrial]) -> None:
        """Has the recipes of ``trials`` asked before those that wait already.

        Optuna asks waiting trials in the order of their numbers, so all others get new numbers. A
        recipe that waits twice costs nothing.
        """
        waiting = self._study.get_trials(deepcopy=True, states=(TrialState.WAITING,))
        self._enqueue_again(trials)
        self._enqueue_again(waiting)
        self._drop(waiting)

    def _enqueue_again(self, trials: Iterable[FrozenTrial]) -> None:
        """Enqueues the recipes of ``trials`` behind all that wait."""
        for trial in trials:
            # The parameters hold one value for all that are tied; what was enqueued holds each.
            wanted = {**trial.params, **frozen_enqueued_values(trial)}
            if wanted:
                self.enqueue(wanted, trial.user_attrs.get("label", ""))

    def _drop(self, waiting: Iterable[FrozenTrial]) -> None:
        """Settles waiting trials without asking them."""
        for trial in waiting:
            fail_waiting(self._study, trial)

    def _told_row_of(self, key: str) -> Row | None:
        number = self._started.get(key)
        return None if number is None else self.told_row(number)


class _Sampler:
    """The study with another sampler, for a while."""

    def __init__(self, study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> None:
        self._study, self._other = study, sampler

    def __enter__(self) -> None:
        self._own, self._study.sampler = self._study.sampler, self._other

    def __exit__(self, *_: object) -> None:
        self._study.sampler = self._own


def _has_row(trial: FrozenTrial) -> bool:
    return "row" in trial.user_attrs


def unbuilt_row(asked: Asked, error: Exception) -> Row:
    """The row of a draw that gave no valid recipe: methods clash, or one of them failed."""
    row: Row = {"trial": asked.number, "seconds": 0.0, "rung": 0, "recipe": asked.values, "label": asked.label}
    if isinstance(error, InvalidRecipe):
        return {**row, "status": "infeasible", "reason": str(error), "excess": {"valid": 1.0}}
    log.error("trial %d failed in compose", asked.number, exc_info=error)
    text = " ".join(str(error).split())
    return {**row, "status": "failed", "reason": f"compose: {type(error).__name__}: {text}"}

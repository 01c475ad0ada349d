"""A storage that only shows the last trials and the front to samplers.

Optuna and its samplers read all trials whenever a recipe is drawn, which takes 3.7 s at 100,000
trials. Trials outside of the window stay in the storage.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autocompress.compat.optuna import trial_id
from autocompress.objectives.dominance import Front
from autocompress.searching.storing.journal import FileStorage

WINDOW = 1000
"""Number of finished trials for samplers, in addition to the front and unfinished trials."""
RUNNING = 250
"""Number of running trials for samplers, the last ones."""
_OPEN = frozenset({TrialState.RUNNING, TrialState.WAITING})


class Windowed(BaseStorage):
    """The storage of one study, with an index of its trials by number.

    Only the driver of a search asks and tells. Changes that bypass this index are found when the
    trial is looked up.

    Args:
        inner: storage with all trials.
        most: maximum number of finished trials in the window; None for all.
        running: maximum number of running trials in the window.
    """

    def __init__(self, inner: BaseStorage, most: int | None = WINDOW, running: int = RUNNING) -> None:
        self.inner, self._most, self._running = inner, most, running
        self._begin()

    def _begin(self) -> None:
        self._recent: deque[FrozenTrial] = deque(maxlen=self._most)
        self._front: Front[FrozenTrial] = Front()
        self._directions: list[StudyDirection] = []
        self._finished: dict[int, FrozenTrial] = {}
        self._open: dict[int, FrozenTrial] = {}
        self._stale: set[int] = set()
        self._is_loaded = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Changes within the block are written together, at its end, or not at all.

        Raises:
            OSError: if the disk stays full. The study is then unchanged.
        """
        if not isinstance(self.inner, FileStorage):
            yield
            return
        try:
            with self.inner.journal.together():
                yield
        except OSError:
            self.inner = FileStorage(self.inner.file)
            self._begin()
            raise

    # --- trials -----------------------------------------------------------------------------------

    def of(self, study_id: int, number: int) -> FrozenTrial:
        """The trial with this number; must not be changed."""
        if (finished := self._finished.get(number)) is not None:
            return finished
        return self.get_trial(self.inner.get_trial_id_from_study_id_trial_number(study_id, number))

    def everything(self, study_id: int) -> list[FrozenTrial]:
        """All trials in their present state, in the order of their numbers; must not be changed."""
        trials = self.inner.get_all_trials(study_id, deepcopy=False)
        self._directions = self.inner.get_study_directions(study_id)
        self._is_loaded = True
        self._stale.clear()
        self._see(trials)
        return trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in the window, in the order of their numbers."""
        if not self._is_loaded:
            self.everything(study_id)
        self._see([self.inner.get_trial(one) for one in self._stale])
        self._stale.clear()
        shown = dict(self._open)
        if states is None or any(state in states for state in TrialState if state not in _OPEN):
            running = [number for number, trial in sorted(shown.items()) if trial.state == TrialState.RUNNING]
            for number in running[: -self._running]:
                del shown[number]
            shown |= {trial.number: trial for trial in (*self._front.items, *self._recent)}
        found = [shown[number] for number in sorted(shown) if states is None or shown[number].state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See Optuna."""
        trial = self.inner.get_trial(trial_id)
        self._see([trial])
        return trial

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        """Number of all trials, in the window or not."""
        return len(self._finished) + len(self._open) if state is None else self.inner.get_n_trials(study_id, state)

    def _see(self, trials: Iterable[FrozenTrial]) -> None:
        for trial in trials:
            if not trial.state.is_finished():
                self._open[trial.number] = trial
            elif trial.number not in self._finished:
                self._open.pop(trial.number, None)
                self._finished[trial.number] = trial
                self._recent.append(trial)
                self._add_to_front(trial)

    def _add_to_front(self, trial: FrozenTrial) -> None:
        if trial.state != TrialState.COMPLETE or any(value > 0 for value in trial.constraints.values()):
            return
        point = [
            -value if direction == StudyDirection.MAXIMIZE else value
            for value, direction in zip(trial.values or [], self._directions, strict=True)
        ]
        self._front.add(point, trial, trial.number)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See Optuna."""
        made = self.inner.create_new_trial(study_id, template_trial)
        self._stale.add(made)
        return made

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See Optuna."""
        self._change(trial_id, self.inner.set_trial_param, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See Optuna."""
        return bool(self._change(trial_id, self.inner.set_trial_state_values, state, values))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See Optuna."""
        self._change(trial_id, self.inner.set_trial_intermediate_value, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self._change(trial_id, self.inner.set_trial_user_attr, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self._change(trial_id, self.inner.set_trial_system_attr, key, value)

    def _change(self, trial_id: int, change: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return change(trial_id, *arguments)
        finally:
            self._stale.add(trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See Optuna."""
        if (finished := self._finished.get(trial_number)) is not None:
            return trial_id(finished)
        return self.inner.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    # --- the study --------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See Optuna."""
        return self.inner.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """See Optuna."""
        self.inner.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self.inner.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self.inner.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """See Optuna."""
        return self.inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See Optuna."""
        return self.inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See Optuna."""
        return self._directions or self.inner.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return self.inner.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return self.inner.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        """See Optuna."""
        return self.inner.get_all_studies()

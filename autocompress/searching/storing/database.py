"""A study in a database, by Optuna's ``RDBStorage``; it waits for the end of an outage.

Only the driver of a search changes its study. So after an attempt whose answer was lost, the
content of the database shows whether the change was made.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autocompress.compat.optuna import cached
from autocompress.searching.storing.outages import insisted

CONNECTS_S = 5
SILENCE_MS = 10_000
"""Milliseconds without an answer after which a connection is treated as lost."""
T = TypeVar("T")


def connected(url: str, password: str | None) -> RDBStorage:
    """Optuna's storage in PostgreSQL; makes its tables if they are missing.

    Args:
        url: URL of the database, without a password.
        password: password of the user; None for none, or for the one that libpq finds.
    """
    limits = {"connect_timeout": CONNECTS_S, "tcp_user_timeout": SILENCE_MS, "keepalives_idle": 5}
    given: dict[str, Any] = {**limits, **({"password": password} if password else {})}
    driver = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return RDBStorage(driver, engine_kwargs={"pool_pre_ping": True, "connect_args": given})


def is_outage(error: Exception) -> bool:
    """Whether the server is unreachable; ``OperationalError`` is an error of the connection."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError)


class DatabaseStorage(BaseStorage):
    """The storage of one study in a database.

    If a trial is made but the server's answer is lost, another trial is made. The first one stays
    in the study, and is never run.

    Args:
        inner: storage of Optuna.
        url: URL of the database, for messages.
    """

    def __init__(self, inner: RDBStorage, url: str) -> None:
        self._inner, self._url = cached(inner), url

    def _do(self, action: Callable[[bool], T]) -> T:
        return insisted(action, is_outage, self._url)

    # --- changes that must not be repeated --------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`."""

        def create(is_again: bool) -> int:
            try:
                return self._inner.create_new_study(directions, study_name)
            except DuplicatedStudyError:
                if not is_again or study_name is None:
                    raise
                return self._inner.get_study_id_from_name(study_name)

        return self._do(create)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See :class:`optuna.storages.BaseStorage`."""

        def change(is_again: bool) -> bool:
            try:
                done = self._inner.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if not is_again or self._inner.get_trial(trial_id).state != state:
                    raise
                return True
            return done or (is_again and self._inner.get_trial(trial_id).state == state)

        return self._do(change)

    # --- changes that may be repeated -------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.create_new_trial(study_id, template_trial))

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.delete_study(study_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_study_system_attr(study_id, key, value))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._do(lambda _: self._inner.set_trial_system_attr(trial_id, key, value))

    # --- reading ----------------------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: list(self._inner.get_all_studies()))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._do(lambda _: self._inner.get_all_trials(study_id, deepcopy, states))

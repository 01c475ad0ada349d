"""Data of a trial that Optuna stores without a public interface."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX, DEFAULT_MIME_TYPE, ArtifactMeta
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState


def enqueued_values(trial: Trial) -> Mapping[str, Any]:
    """The values with which ``trial`` was enqueued; empty where it was not enqueued.

    Private: ``Trial._cached_frozen_trial``, and the name of the system attribute.
    """
    return frozen_enqueued_values(trial._cached_frozen_trial)


def frozen_enqueued_values(trial: FrozenTrial) -> Mapping[str, Any]:
    """The same for a frozen trial. Private: the name ``fixed_params`` of the system attribute."""
    values: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return values


def running_trial(study: Study, frozen: FrozenTrial) -> Trial:
    """The trial of ``study`` with the copy ``frozen``, so that it can be changed.

    Private: ``_trial_id``.
    """
    return Trial(study, frozen._trial_id)


def fail_waiting(study: Study, frozen: FrozenTrial) -> None:
    """Marks a waiting trial as failed without asking it, which ``Study.tell`` refuses.

    Private: ``Study._storage``.
    """
    study._storage.set_trial_state_values(frozen._trial_id, state=TrialState.FAIL)


def attributes_of(study: Study) -> Mapping[str, Any]:
    """The user attributes of ``study`` without a copy, which ``Study.user_attrs`` makes each time.

    Private: ``Study._storage`` and ``Study._study_id``.
    """
    found: Mapping[str, Any] = study._storage.get_study_user_attrs(study._study_id)
    return found


def artifacts_of(study: Study) -> dict[str, str]:
    """Ids of the artifacts of ``study``, by the name of the file.

    Optuna's ``get_all_artifact_meta`` raises an error where one was deleted in optuna-dashboard.

    Private: ``Study._storage``, ``Study._study_id``, and the names of the system attributes.
    """
    attributes = study._storage.get_study_system_attrs(study._study_id)
    metas = [json.loads(value) for name, value in attributes.items() if name.startswith(ARTIFACTS_ATTR_PREFIX)]
    return {meta["filename"]: meta["artifact_id"] for meta in metas if meta is not None}


def rename_artifact(study: Study, artifact: str, name: str) -> None:
    """Gives an artifact of ``study`` the name of another file.

    Optuna removes no artifact. optuna-dashboard writes null in place of one, which
    ``get_all_artifact_meta`` cannot read.

    Private: see :func:`artifacts_of`, and the fields of the meta data.
    """
    mimetype, encoding = mimetypes.guess_type(name)
    meta = ArtifactMeta(artifact, name, mimetype or DEFAULT_MIME_TYPE, encoding)
    study._storage.set_study_system_attr(
        study._study_id, f"{ARTIFACTS_ATTR_PREFIX}{artifact}", json.dumps(asdict(meta))
    )


def trial_id(frozen: FrozenTrial) -> int:
    """The number of a trial in its storage, which may hold several studies.

    Private: ``_trial_id``.
    """
    return int(frozen._trial_id)


def cached(storage: RDBStorage) -> BaseStorage:
    """The storage with Optuna's cache of finished trials, as a study has it for a URL.

    Private: ``get_storage``, "only for internal usage".
    """
    return get_storage(storage)


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a parameter with ``distribution`` may have ``value``. Private: ``_contains``."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


class RememberingTPE(TPESampler):
    """TPE that reads the values of each trial once; its draws are the same.

    Optuna reads all values at each draw, which takes most of the time with 2,000 trials. Private:
    ``TPESampler._get_internal_repr``.
    """

    MOST = 20_000
    """Maximum number of trials in memory."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._remembered: dict[tuple[str, ...], dict[tuple[int, bool], tuple[float, ...]]] = {}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        names = tuple(search_space)
        known = self._remembered.setdefault(names, {})
        if len(known) > self.MOST:
            known.clear()
        rows: list[tuple[float, ...]] = []
        for trial in trials:
            # The drawn values of a running trial count as its values until it ends.
            is_over = trial.state.is_finished()
            row = known.get((trial.number, is_over))
            if row is None:
                found = super()._get_internal_repr([trial], search_space, study)
                row = tuple(float(found[name][0]) for name in names if len(found[name]))
                if row or is_over:
                    known[trial.number, is_over] = row
            if row:
                rows.append(row)
        values = np.array(rows).reshape(len(rows), len(names))
        return {name: values[:, at] for at, name in enumerate(names)}

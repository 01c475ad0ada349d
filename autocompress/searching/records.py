"""What the study of a run records besides its draws: rows, promotions, and how the search began.

The study is an Optuna study: a journal in the folder of the run (``optuna-dashboard
study.journal`` shows it), or on a server (``searching.storing``). Together with trials.csv, which
is written from it, it has all results. Only the driver writes to it. Workers send their rows
through the spool (``searching.spool``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autocompress.compat.optuna import attributes_of
from autocompress.errors import UserError
from autocompress.results import Row, read_trials
from autocompress.searching.dashboard import offer
from autocompress.searching.storing.opening import has_study, study_of
from autocompress.searching.windowed import Windowed

BEGUN = "begun_with"
AMENDED, PROMOTED = "amended:", "promoted:"
"""Prefixes of study attributes that belong to one trial. The number of the trial follows."""
log = logging.getLogger("autocompress.search")


def _attributes(folder: Path, url: str | None) -> Mapping[str, Any]:
    """The attributes of the study of the run in ``folder``; empty if there is no study."""
    if not has_study(folder):
        return {}
    kept = study_of(folder, url, "")
    try:
        found: dict[str, Any] = kept.storage.get_study_user_attrs(kept.storage.get_study_id_from_name(kept.name))
    except KeyError:
        if kept.is_shared and not read_trials(folder).empty:
            raise UserError(
                f"the study {kept.name} of {folder} is not on {url}",
                "restore it there, or start another search: without it, a resume would replace the finished trials",
            ) from None
        return {}
    return found


def read_begun(folder: Path, url: str | None = None) -> dict[str, Any] | None:
    """The record of how the search in ``folder`` began (see ``searching.begun``).

    Args:
        folder: folder of the run.
        url: URL of the server that keeps the study; None for a file in ``folder``.

    Returns:
        None if there is no study, or an earlier version began it.

    Raises:
        UserError: if the run has rows, and the server has lost its study.
    """
    return _attributes(folder, url).get(BEGUN)


def read_baseline_key(folder: Path, url: str | None = None) -> str | None:
    """The key of the baseline of the search in ``folder``; None if it is not recorded.

    The arguments are those of :func:`read_begun`.
    """
    return _attributes(folder, url).get("baseline_key")


class Records:
    """Rows and attributes of a study.

    Args:
        study: the study of Optuna.
        trials: the storage of the study.
        study_id: id of the study in ``trials``.
    """

    def __init__(self, study: optuna.Study, trials: Windowed, study_id: int) -> None:
        self._study, self._trials, self._id = study, trials, study_id

    # --- rows -------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """The rows of all trials that were run, in the order of their numbers."""
        found = attributes_of(self._study)
        return [amended_row(trial, found) for trial in self._trials.everything(self._id) if has_row(trial)]

    def row(self, number: int) -> Row | None:
        """The latest row of a trial; None if it has none yet."""
        trial = self._trials.of(self._id, number)
        return amended_row(trial, attributes_of(self._study)) if has_row(trial) else None

    def told_row(self, number: int) -> Row | None:
        """The row of a trial that the sampler was told (rung 0); None if it has none yet."""
        found: Row | None = self._trials.of(self._id, number).user_attrs.get("row")
        return found

    def amend(self, number: int, row: Row) -> None:
        """Replaces a row that the sampler was told, for example by the row of a higher rung.

        The new row is kept beside the trials, because Optuna does not change finished trials. The
        sampler does not get it, because all values that a sampler is told are of rung 0.
        """
        self._study.set_user_attr(f"{AMENDED}{number}", row)

    # --- promotions -------------------------------------------------------------------------------

    def promote(self, number: int, rung: int) -> None:
        """Records that a recipe will be trained at ``rung``, before a worker gets it."""
        self._study.set_user_attr(f"{PROMOTED}{number}", rung)

    def promoted(self) -> dict[int, int]:
        """The highest rung to which each recipe was promoted, by trial number."""
        found = attributes_of(self._study)
        return {int(name[len(PROMOTED) :]): rung for name, rung in found.items() if name.startswith(PROMOTED)}

    # --- the search -------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Wall time of this search so far, over all its runs."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def spend(self, seconds: float) -> None:
        """Records the wall time of this search so far."""
        self._study.set_user_attr("seconds", round(seconds, 3))

    @property
    def baseline_key(self) -> str | None:
        """The key of the baseline with which the search began, if it is recorded."""
        return self._study.user_attrs.get("baseline_key")

    def keep_baseline_key(self, key: str) -> None:
        """Records the baseline of this search."""
        self._study.set_user_attr("baseline_key", key)

    @property
    def images(self) -> dict[str, str] | None:
        """Digests of the images of the search; None if an earlier version began it."""
        return self._study.user_attrs.get("images")

    def keep_images(self, digests: Mapping[str, str]) -> None:
        """Records the images on which the rows are judged (see ``searching.begun.images_of``)."""
        self._study.set_user_attr("images", dict(digests))

    def keep_begun(self, begun: Mapping[str, Any]) -> None:
        """Records how the search began (see ``searching.begun``), unless it is recorded already."""
        if BEGUN not in self._study.user_attrs:
            self._study.set_user_attr(BEGUN, dict(begun))

    def offer(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Makes ``files`` artifacts of the study, for optuna-dashboard (``searching.dashboard``).

        An error is logged and does not end the search, because the run has the files anyway.
        """
        try:
            offer(self._study, folder, files)
        except Exception as error:  # libraries of databases have errors of many kinds
            log.warning("optuna-dashboard will not show the models: %s", error)


def has_row(trial: FrozenTrial) -> bool:
    """Whether a trial was run."""
    return "row" in trial.user_attrs


def amended_row(trial: FrozenTrial, attributes: Mapping[str, Any]) -> Row:
    """The latest row of ``trial``, given the attributes of its study."""
    old = attributes.get("amended", {}).get(str(trial.number))  # as earlier versions kept it
    found: Row = attributes.get(f"{AMENDED}{trial.number}", old or trial.user_attrs["row"])
    return found

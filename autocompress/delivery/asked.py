"""What an export is asked for: checked before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.errors import UserError
from autocompress.results import MODEL_FILE, SearchResult, read


def asked(run: str | Path, to: str | Path, trial: int | None) -> tuple[SearchResult, Mapping[str, Any], Path]:
    """The run, the row of the trial and the folder of its artifact.

    Args:
        run: ``results/<name>``.
        to: the folder to write.
        trial: number of the trial; the recommended one by default.

    Raises:
        UserError: if ``run`` is not a run, has no such model, its task has no script, or ``to`` is
            not empty.
    """
    result, to = read(run), Path(to)
    row = _row(result, trial)
    artifact = result.folder / str(row["artifact"])
    if not (artifact / MODEL_FILE).is_file():
        raise UserError(f"the model of trial {row['trial']} is not in {artifact}", f"it has no {MODEL_FILE}")
    if (task := _task(result.job)) not in ("classification", "multilabel"):
        hint = f"take {artifact / MODEL_FILE}; its metadata say how pictures are prepared"
        raise UserError(
            f"export writes infer.py, which only predicts classes or labels, but the task of this run is '{task}'", hint
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is there already", "give --to another folder")
    return result, row, artifact


def _row(result: SearchResult, trial: int | None) -> Mapping[str, Any]:
    """The row of the trial: from the front or, while the search runs, from trials with a model.

    Raises:
        UserError: if there is none.
    """
    models = result.models if len(result.front) else result.trials[result.trials["artifact"] != ""]
    if trial is None:
        best = result.recommended()
        if best is None:
            shown = f"see 'autocompress show {result.folder}'"
            hint = f"choose one with --trial: {_listed(models)}" if len(models) else shown
            raise UserError(result.why_none(), hint)
        return _plain(best)
    found = models[models["trial"] == trial]
    if found.empty or not found.iloc[0]["artifact"]:
        raise UserError(f"trial {trial} has no model in {result.folder}", f"trials with a model: {_listed(models)}")
    return _plain(found.iloc[0])


def _task(job: Mapping[str, Any]) -> str:
    """The name of the run's task."""
    told = job.get("task", "classification")
    return str(told["name"] if isinstance(told, Mapping) else told)


def _plain(row: pd.Series) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _listed(models: pd.DataFrame) -> str:
    return ", ".join(map(str, models["trial"])) or "none"

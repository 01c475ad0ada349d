"""Rules for loggers: the hooks that are called with the progress of a search."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.contract import Manager
from autocompress.contract.registration import reason
from autocompress.job import Job
from autocompress.results import SearchResult
from autocompress.results.columns import COLUMNS, FRONT_COLUMNS, frame
from autocompress.testing.example import example_job
from autocompress.testing.rules import Report, require
from autocompress.testing.variables import changed, variables

STARTED, TOLD, FINISHED, STOPPED = (
    f"autocompress_{what}" for what in ("search_started", "trial_finished", "search_finished", "search_stopped")
)
OBSERVED = (STARTED, TOLD, FINISHED, STOPPED)
"""The hooks of loggers."""
RECIPE = {"prune.method": "obs", "prune.keep.layer1": 0.5, "bits.weight.layer1": "quantize:8", "recover.epochs": 1}
COSTS = {"latency_ms": 0.5, "latency_ratio": 0.4, "size_bytes": 12_000, "params": 9_000, "macs": 1_000_000}
COMPLETE = {"accuracy": 91.5, "accuracy_drop": 0.5, **COSTS, "artifact": "artifacts/0", "excess": {}}
ROWS: Mapping[str, dict[str, Any]] = {
    "complete": COMPLETE,
    "infeasible": {**COSTS, "reason": "latency 0.3x: 0.40x measured", "excess": {"latency": 0.3}},
    "failed": {"reason": "train: the loss is not finite"},
}
"""Columns of rows besides number, status, recipe and seconds. A failed trial has no figures."""


def check_observer(plugin: object) -> list[str]:
    """Calls the logger hooks of a plugin for three small searches, and checks for errors.

    One search finds a model, one finds none, and one is stopped. Among the trials are one that
    missed a bound and one that failed. An error of a logger does not stop a search, so without this
    check its author would only see it in the log.

    Args:
        plugin: a module or an object with hooks.

    Returns:
        The hooks that were called.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    hooks = [name for name in OBSERVED if callable(getattr(plugin, name, None))]
    if not hooks:
        return []
    report, failed = Report(), list[str]()
    alone = Manager(entry_points=False)
    alone.register(plugin)
    with tempfile.TemporaryDirectory() as folder:
        job = example_job().model_copy(update={"results": Path(folder)})
        job.folder.mkdir()
        before = (Path.cwd(), variables())
        for hook, about, arguments in _events(job):
            if hook not in hooks:
                continue
            given = copy.deepcopy(arguments.get("trial"))
            faults: list[BaseException] = []
            alone.tell(hook, faults.append, **arguments)
            failed += [f"{about}: {reason(error)}" for error in faults]
            report.check(_check_unchanged, hook, given, arguments.get("trial"))
        report.check(_check_process, before)
    report.rules += [f"a logger must take every search, but raises for {text}" for text in dict.fromkeys(failed)]
    report.end()
    return hooks


def _events(job: Job) -> list[tuple[str, str, dict[str, Any]]]:
    """For each call of three searches in turn: the hook, a description and the arguments."""
    rows = [_row(number, status) for number, status in enumerate(ROWS)]
    lost = [row for row in rows if row["status"] == "failed"]
    found = {"job": job, "result": _result(job, rows)}
    none = {"job": job, "result": _result(job, lost)}
    return [
        *_begun(job, rows),
        (FINISHED, "a search that found a model", found),
        *_begun(job, lost),
        (FINISHED, "a search in which every trial failed", none),
        *_begun(job, []),
        (STOPPED, "a search that is stopped", {"job": job}),
    ]


def _begun(job: Job, rows: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    told = [(TOLD, f"a trial that is {row['status']}", {"job": job, "trial": dict(row)}) for row in rows]
    return [(STARTED, "a search that begins", {"job": job}), *told]


def _row(number: int, status: str) -> dict[str, Any]:
    return {"trial": number, "status": status, "recipe": dict(RECIPE), "label": "", "rung": 0, "seconds": 1.5} | ROWS[
        status
    ]


def _result(job: Job, rows: list[dict[str, Any]]) -> SearchResult:
    baseline = {**COMPLETE, "status": "baseline", "accuracy": 92.0, "accuracy_drop": 0.0, "latency_ratio": 1.0}
    complete = [row for row in rows if row["status"] == "complete"]
    front = _frame([baseline, *complete], FRONT_COLUMNS)
    summary = {"baseline": baseline, "hypervolume": 0.4} if complete else {"baseline": baseline}
    return SearchResult(job.folder, job.model_dump(mode="json"), _frame(rows, COLUMNS), front, summary)


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    return frame([{name: value for name, value in row.items() if name in columns} for row in rows], columns)


def _check_unchanged(hook: str, before: Any, after: Any) -> None:
    require(before == after, f"{hook} must not change the row that it is told: copy it first")


def _check_process(before: tuple[Path, dict[str, str]]) -> None:
    require(Path.cwd() == before[0], "a logger must not change the working folder: give whole paths instead")
    names = ", ".join(changed(before[1]))
    require(not names, f"a logger must not change environment variables of the search: {names}")

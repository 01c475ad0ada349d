"""What a run leaves in ``results/<name>/``: the names of its columns, and reading it back.

The folder holds ``job.yaml`` (the job as resolved), ``trials.csv`` (a row a trial), ``front.csv`` (the front, measured
again; its first row is the baseline), ``sensitivity.csv`` (a row a group and width, where groups had a choice of
widths), ``summary.json`` and ``artifacts/<trial>/``. Their names are an interface.

``summary.json``, every key optional::

    hypervolume, seconds: numbers                 trials: {complete, stopped, infeasible, failed: counts}
    ended: why the search was over, in words
    cache: {hits, misses}                         images: {train, val, test: counts}
    baseline: a row                               environment: {machine, threads, runtime, ...}
    nearest_miss: a row with "reason", or null
    preprocessing: [what is done to a picture before the network reads it, step by step]
    synthetic: in a run without training data {train: {source: images}, classes: count}; where candidates were judged
        by agreement with the baseline also {held_out: images, classes_seen: classes that the baseline sees in them}
    plugins: {applied: [names], refused: {name: [reasons]}, broken: {name: reason}}
    float_layers: names of the baseline's layers that no quantizer here can turn into integers

``artifacts/<trial>/metrics.json`` may hold ``float_layers`` (names of the layers that compute in float beside others
that are quantized), ``noisy`` (bool), ``accuracy_of`` (what was scored on validation: "file", or "torch model" where a
stock runtime is slow with the file, and ``note`` says why) and 95 % intervals as ``[low, high]`` in points, paired on
the same images: ``accuracy_drop_interval``, ``test_accuracy_drop_interval``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from autocompress.errors import UserError, did_you_mean
from autocompress.files import atomic
from autocompress.job.amounts import Bound, parse_bound

JOB_FILE, TRIALS_FILE, FRONT_FILE, SUMMARY_FILE = "job.yaml", "trials.csv", "front.csv", "summary.json"
SENSITIVITY_FILE = "sensitivity.csv"
TABLES_FILE = "tables.csv"

STATUSES = ("complete", "stopped", "infeasible", "failed")
"""Status of a trial. ``stopped``: halving ended it; ``infeasible``: a gate did; ``failed``: it broke."""
INTERRUPTED = "interrupted"
"""``ended`` in the summary of a search that Ctrl-C ended: its front was neither measured again nor scored on test."""
BASELINE = "baseline"
"""Status of the first row of front.csv, which has no trial number."""

_DTYPES = {
    "trial": "Int64",
    "status": "string",
    "reason": "string",
    "accuracy": "float64",
    "accuracy_drop": "float64",
    "agreement": "float64",
    "latency_ms": "float64",
    "latency_ratio": "float64",
    "size_bytes": "Int64",
    "params": "Int64",
    "macs": "Int64",
    "energy_uj": "float64",
    "seconds": "float64",
    "rung": "Int64",
    "recipe": "object",
    "artifact": "string",
}
_FRONT_DTYPES = _DTYPES | {
    "test_accuracy": "float64",
    "test_accuracy_drop": "float64",
    "latency_ratio_low": "float64",
    "latency_ratio_high": "float64",
    "size_ratio": "float64",
    "energy_ratio": "float64",
}
_SENSITIVITY_DTYPES = {
    "group": "string",
    "role": "string",
    "quantizer": "string",
    "bits": "Int64",
    "loss": "float64",
    "agreement": "float64",
}
COLUMNS: tuple[str, ...] = tuple(_DTYPES)
"""Columns of trials.csv. Accuracies in percent, drops in points, ``recipe`` a dict (JSON in the file), ``artifact`` a
path relative to the run's folder or empty. ``agreement`` is empty but in runs that judge without labelled images: there
it is the percent of held-out synthetic images on which a model answers as the baseline does, ``accuracy`` is the same
figure, and ``accuracy_drop`` is what is missing to 100."""
_LATER = frozenset({"agreement"})
"""Columns that older runs lack."""
FRONT_COLUMNS: tuple[str, ...] = tuple(_FRONT_DTYPES)
"""Columns of front.csv."""
SENSITIVITY_COLUMNS: tuple[str, ...] = tuple(_SENSITIVITY_DTYPES)
"""Columns of sensitivity.csv. ``role`` is "weight" or "activation". Where this group alone has these bits, ``loss`` is
the mean Kullback-Leibler divergence from the baseline's class probabilities in nats, ``agreement`` the percent of equal
labels."""

OBJECTIVE_COLUMNS = {
    "accuracy": "accuracy",
    "latency": "latency_ratio",
    "size": "size_bytes",
    "energy": "energy_uj",
    "macs": "macs",
}
"""The column of trials.csv that an objective of a job is judged by. Accuracy is better when higher, the rest lower."""


def frame(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS) -> pd.DataFrame:
    """Rows as a typed frame with exactly ``columns``; what a row lacks is missing (texts: empty, recipes: ``{}``).

    Raises:
        ValueError: if a row has a key that is no column.
    """
    rows = list(rows)
    if unknown := {key for row in rows for key in row} - set(columns):
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    dtypes = _FRONT_DTYPES | _SENSITIVITY_DTYPES
    return pd.DataFrame({name: _column([row.get(name) for row in rows], dtypes[name]) for name in columns})


def _column(values: list[Any], dtype: str) -> pd.Series:
    if dtype == "string":
        return pd.Series([_text(value) for value in values], dtype="string")
    if dtype == "object":
        return pd.Series([value or {} for value in values], dtype=object)
    return pd.to_numeric(pd.Series(values, dtype=object)).astype(pd.api.types.pandas_dtype(dtype))


def _text(value: Any) -> str:
    """What a CSV file can hold: error messages bring carriage returns of progress bars and broken characters."""
    text = "" if pd.isna(value) else str(value)
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def write_trials(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``trials.csv`` atomically; ``rows`` are in the study's order."""
    _write(folder / TRIALS_FILE, frame(rows, COLUMNS))


def write_front(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``front.csv`` atomically; the first row must be the baseline (status ``baseline``).

    Raises:
        ValueError: if it is not.
    """
    table = frame(rows, FRONT_COLUMNS)
    if table.empty or table["status"].iloc[0] != BASELINE:
        raise ValueError("the first row of the front must be the baseline")
    _write(folder / FRONT_FILE, table)


def write_sensitivity(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``sensitivity.csv`` atomically."""
    _write(folder / SENSITIVITY_FILE, frame(rows, SENSITIVITY_COLUMNS))


def write_tables(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``tables.csv`` atomically: a row a choice of each coupling or group, with the divergence that it causes
    alone (``proposals.Table.rows``)."""
    _write(folder / TABLES_FILE, pd.DataFrame(list(rows)))


def _write(path: Path, table: pd.DataFrame) -> None:
    if "recipe" in table:
        table = table.assign(recipe=table["recipe"].map(json.dumps))
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_trials(folder: Path) -> pd.DataFrame:
    """``trials.csv`` as a typed frame; empty where the file is not there yet."""
    return _read(folder / TRIALS_FILE, COLUMNS)


def read_front(folder: Path) -> pd.DataFrame:
    """``front.csv`` as a typed frame, the baseline first; empty where the file is not there yet."""
    return _read(folder / FRONT_FILE, FRONT_COLUMNS)


def read_sensitivity(folder: Path) -> pd.DataFrame:
    """``sensitivity.csv`` as a typed frame; empty where the run has none."""
    return _read(folder / SENSITIVITY_FILE, SENSITIVITY_COLUMNS)


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.exists():
        return frame([], columns)
    try:
        # As text first: pandas would guess "None" and "nan" in a reason to be missing values.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [column for column in columns if column not in {*table.columns, *_LATER}]:
            raise ValueError(f"column '{missing[0]}' is missing")
        table = table.reindex(columns=list(columns), fill_value="")
        return frame([_parse(row) for row in table.to_dict("records")], columns)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "it must be as the search wrote it") from error


def _parse(row: Mapping[Any, str]) -> dict[str, Any]:
    values: dict[str, Any] = {column: text for column, text in row.items() if text != ""}
    if "recipe" in values:
        values["recipe"] = json.loads(values["recipe"])
    return values


@dataclass(frozen=True)
class SearchResult:
    """A run, read from its folder.

    Attributes:
        folder: ``results/<name>``.
        job: the job as resolved, a plain dict.
        trials: trials.csv; columns ``COLUMNS``.
        front: front.csv; columns ``FRONT_COLUMNS``; the first row is the baseline. Empty while the search runs.
        summary: summary.json; empty while the search runs.
        sensitivity: sensitivity.csv; columns ``SENSITIVITY_COLUMNS``. Empty where no group had a choice of widths.
    """

    folder: Path
    job: dict[str, Any]
    trials: pd.DataFrame
    front: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    sensitivity: pd.DataFrame = field(default_factory=lambda: frame([], SENSITIVITY_COLUMNS))

    @property
    def baseline(self) -> pd.Series:
        """The baseline's row, from front.csv or, while there is none, from summary.json."""
        if len(self.front):
            return self.front.iloc[0]
        row = {key: value for key, value in (self.summary.get("baseline") or {}).items() if key in FRONT_COLUMNS}
        return frame([{**row, "status": BASELINE}], FRONT_COLUMNS).iloc[0]

    @property
    def models(self) -> pd.DataFrame:
        """The front without the baseline."""
        return self.front[self.front["status"] != BASELINE].reset_index(drop=True)

    @property
    def limits(self) -> dict[str, float]:
        """The job's constraints as upper bounds by column, ratios resolved: ``{"accuracy_drop": 1.0, ...}``."""
        return limits(self.job, self.baseline)

    def artifact(self, trial: int) -> Path:
        """The folder with the files of a trial of the front.

        Raises:
            UserError: if the trial has none.
        """
        found = self.models.loc[self.models["trial"] == trial, "artifact"]
        if found.empty or not found.iloc[0]:
            known = ", ".join(str(number) for number in self.models["trial"]) or "none"
            raise UserError(f"trial {trial} has no artifact in {self.folder}", f"trials on the front: {known}")
        return self.folder / str(found.iloc[0])

    def best(self, minimize: str | None = None, **limits: float) -> pd.Series:
        """The front's model that fits, as a row of ``front``.

        Args:
            minimize: the column to minimise. By default the most accurate model where only costs are limited, else the
                cheapest by the job's first cost objective.
            **limits: upper bounds by column (``accuracy_drop=1.0, latency_ratio=0.5``); ``accuracy``, ``agreement`` and
                ``test_accuracy`` are lower bounds. With none, the job's own constraints and at most one point of drop.

        Raises:
            UserError: if a name is no column of numbers, or no model fits.
        """
        limits = limits or {"accuracy_drop": 1.0, **self.limits}
        costs = [OBJECTIVE_COLUMNS[name] for name in self.job.get("objectives", ()) if name != "accuracy"]
        only_costs = not any("accuracy" in column for column in limits)
        minimize = minimize or ("accuracy_drop" if only_costs else [*costs, "latency_ratio"][0])
        numbers = [name for name, dtype in _FRONT_DTYPES.items() if dtype not in ("string", "object")]
        for column in (minimize, *limits):
            if column not in numbers:
                raise UserError(f"the front has no column '{column}' of numbers", did_you_mean(column, numbers))
        wish = " and ".join(f"{column} {_sign(column)} {limit:g}" for column, limit in limits.items())
        models = self.models
        for column, limit in limits.items():
            values = models[column].astype("float64")
            fits = within(-values, -limit) if _sign(column) == ">=" else within(values, limit)
            if not fits.any():
                closest = values.max() if _sign(column) == ">=" else values.min()
                raise UserError(f"no model of the front has {wish}", f"the best left for {column} is {closest:.4g}")
            models = models[fits]
        order = models[minimize].astype("float64").sort_values(kind="stable", na_position="last")
        return models.loc[order.index[0]]

    def __repr__(self) -> str:
        table = self._table().to_string(index=False, float_format="{:.4g}".format)
        return self._head() if self.front.empty else f"{self._head()}\n{table}"

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self._head())}</b>{self._table().to_html(index=False, float_format='{:.4g}'.format)}"

    def _head(self) -> str:
        counts = self.trials["status"].value_counts()
        trials = "".join(f", {counts[status]} {status}" for status in STATUSES if status in counts.index)
        return f"{self.folder}: {len(self.models)} models on the front; {len(self.trials)} trials{trials}"

    def _table(self) -> pd.DataFrame:
        columns = ["trial", "accuracy", "test_accuracy", "accuracy_drop", "latency_ratio", "size_ratio", "artifact"]
        return self.front[columns]


def within(value: Any, limit: float) -> Any:
    """Whether a figure, or each of a series, is at most ``limit``; rounding in the last digits is no miss."""
    return value <= limit + 1e-8 * max(1.0, abs(limit))


def _sign(column: str) -> str:
    return ">=" if column in ("accuracy", "test_accuracy", "agreement") else "<="


def limits(job: Mapping[str, Any], baseline: Mapping[str, Any] | pd.Series) -> dict[str, float]:
    """Upper bounds by column of trials.csv from a job's ``constraints``. Ratios are resolved with the baseline's row;
    latency's stays one, as it is measured."""
    columns = OBJECTIVE_COLUMNS | {"latency": "latency_ms", "params": "params"}
    resolved: dict[str, float] = {}
    for name, given in (job.get("constraints") or {}).items():
        if given is None or name not in columns:
            resolved |= {} if given is None else {name: float(given)}
            continue
        bound = Bound.model_validate(parse_bound(name, given))
        column = "latency_ratio" if bound.relative and name == "latency" else columns[name]
        if not bound.relative or name == "latency":
            resolved[column] = bound.value
        elif pd.notna(base := baseline.get(column)):
            resolved[column] = bound.value * float(base)
    return resolved


def read(folder: str | Path) -> SearchResult:
    """Reads ``results/<name>``, also while its search still runs.

    Raises:
        UserError: if the folder is not a run, or one of its files is broken.
    """
    folder = Path(folder)
    if not (folder / JOB_FILE).is_file():
        runs = sorted(str(path.parent) for path in folder.glob(f"*/{JOB_FILE}")) if folder.is_dir() else []
        hint = f"runs there: {', '.join(runs[:5])}" if runs else "give the folder that a search wrote, results/<name>"
        what = f"it has no {JOB_FILE}" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder} is not a run: {what}", hint)
    try:
        job = yaml.safe_load((folder / JOB_FILE).read_text(encoding="utf-8"))
        summary_file = folder / SUMMARY_FILE
        summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.exists() else {}
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{folder} cannot be read: {error}", "its files must be as the search wrote them") from error
    if not isinstance(job, dict) or not isinstance(summary, dict):
        raise UserError(f"{folder} cannot be read: {JOB_FILE} and {SUMMARY_FILE} must hold keys and values")
    trials, front = read_trials(folder), read_front(folder)
    return SearchResult(folder, job, trials, front, summary, read_sensitivity(folder))

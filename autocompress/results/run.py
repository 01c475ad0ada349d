"""A run read from its folder: :class:`SearchResult`, and the choice of a model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import yaml

from autocompress.errors import HintedError, UserError, did_you_mean
from autocompress.objectives.bounds import by_column, met
from autocompress.objectives.choosing import TRADE, cheapest_by_drop, cost_objective, named_choices
from autocompress.objectives.fronts import USUAL_BAR
from autocompress.objectives.quantities import BOUNDED, BY_NAME, objective_columns, of_column
from autocompress.objectives.spelling import Bound, parse_bound
from autocompress.results.columns import (
    BASELINE,
    FRONT_COLUMNS,
    INTERRUPTED,
    NUMBERS,
    SENSITIVITY_COLUMNS,
    STATUSES,
    TABLE_COLUMNS,
    frame,
)
from autocompress.results.tables import read_front, read_sensitivity, read_tables, read_trials

JOB_FILE, SUMMARY_FILE = "job.yaml", "summary.json"
MODEL_FILE = "model.onnx"
"""The file of a model, in the folder of its artifact."""


@dataclass(frozen=True)
class SearchResult:
    """A run, read from its folder.

    Attributes:
        folder: ``results/<name>``.
        job: the resolved job, a plain dict.
        trials: trials.csv; columns ``COLUMNS``.
        front: front.csv; columns ``FRONT_COLUMNS``; the first row is the baseline. Empty while the
            search runs.
        summary: summary.json; empty while the search runs.
        sensitivity: sensitivity.csv; columns ``SENSITIVITY_COLUMNS``. Empty where no group had a
            choice of bits.
        tables: tables.csv; columns ``TABLE_COLUMNS``. Empty if nothing was measured.
    """

    folder: Path
    job: dict[str, Any]
    trials: pd.DataFrame
    front: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    sensitivity: pd.DataFrame = field(default_factory=lambda: frame([], SENSITIVITY_COLUMNS))
    tables: pd.DataFrame = field(default_factory=lambda: frame([], TABLE_COLUMNS))

    @property
    def baseline(self) -> pd.Series:
        """The row of the baseline, from front.csv or, if that is missing, from summary.json."""
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
        """The constraints of the job as upper bounds by column: ``{"accuracy_drop": 1.0, ...}``.

        Ratios are converted with the row of the baseline.
        """
        return _limits(self.job, self.baseline)

    def artifact(self, trial: int) -> Path:
        """The folder with the files of a trial of the front.

        Raises:
            UserError: if the trial has no files.
        """
        found = self.models.loc[self.models["trial"] == trial, "artifact"]
        if found.empty or not found.iloc[0]:
            known = ", ".join(str(number) for number in self.models["trial"]) or "none"
            raise UserError(f"trial {trial} has no artifact in {self.folder}", f"trials on the front: {known}")
        return self.folder / str(found.iloc[0])

    def load(self, trial: int | None = None) -> Any:
        """The torch module of a model of the front, in eval mode on the CPU.

        Args:
            trial: its number; by default, the recommended model.

        Raises:
            UserError: if there is no such model, or its files are damaged.
        """
        if trial is None:
            best = self.recommended()
            if best is None:
                raise UserError(self.why_none(), "name a trial of the front")
            trial = int(best["trial"])
        # Imported by name, because results must not import rooms above them.
        plugins = importlib.import_module("autocompress.contract").manager()
        for path in map(Path, self.job.get("plugins") or []):
            if path.is_file():
                plugins.add_file(path)
        load = importlib.import_module("autocompress.compression.artifact").load
        return load(self.artifact(trial), plugins)

    def plot(self) -> Any:
        """The front as a figure of matplotlib: accuracy over the first cost objective."""
        return importlib.import_module("autocompress.report.charts.front_png").plotted(self)

    def best(self, minimize: str | None = None, **limits: float | str) -> pd.Series:
        """The best model of the front within limits, as a row of ``front``.

        Args:
            minimize: the column to minimise. By default, it is the accuracy drop if only costs are
                limited, else the first cost objective of the job.
            **limits: upper bounds by column (``accuracy_drop=1.0, latency_ratio=0.5``). Bounds on
                ``accuracy``, ``agreement`` and ``test_accuracy`` are lower bounds. Strings are
                written like the constraints of a job: ``latency="0.5x", size="2 MB"``. By default,
                they are the constraints of the job, and at most one point of drop if the job has no
                bound on the drop.

        Raises:
            UserError: if a name is not a column of numbers, or no model meets the limits.
        """
        return self._best(minimize, self._by_column(limits) or {"accuracy_drop": 1.0, **self.limits})

    def _by_column(self, limits: Mapping[str, float | str]) -> dict[str, float]:
        """Converts strings, as in the constraints of a job, to bounds on columns."""
        found = {}
        for name, value in limits.items():
            if not isinstance(value, str):
                found[name] = float(value)
            elif name not in BY_NAME or not BY_NAME[name].units:
                raise UserError(f"'{name}' cannot be bounded by '{value}'", did_you_mean(name, BOUNDED))
            else:
                try:
                    found |= _limits({"constraints": {name: value}}, self.baseline)
                except HintedError as error:
                    raise UserError(f"{name} {error}", error.hint) from None
        return found

    def _best(self, minimize: str | None, limits: Mapping[str, float]) -> pd.Series:
        costs = objective_columns([name for name in self.job.get("objectives", ()) if name != "accuracy"])
        only_costs = not any("accuracy" in column for column in limits)
        minimize = minimize or ("accuracy_drop" if only_costs else [*costs, "latency_ratio"][0])
        for column in (minimize, *limits):
            if column not in NUMBERS:
                raise UserError(f"the front has no column '{column}' of numbers", did_you_mean(column, NUMBERS))
        quantities = {column: of_column(column) for column in limits}
        signs = {column: ">=" if quantity.higher_is_better else "<=" for column, quantity in quantities.items()}
        wish = " and ".join(f"{column} {signs[column]} {limit:g}" for column, limit in limits.items())
        models = self.models
        for column, limit in limits.items():
            values = models[column].astype("float64")
            fits = met(quantities[column], values, limit)
            if not fits.any():
                closest = values.max() if quantities[column].higher_is_better else values.min()
                raise UserError(f"no model of the front has {wish}", f"the closest value of {column} is {closest:.4g}")
            models = models[fits]
        order = models[minimize].astype("float64").sort_values(kind="stable", na_position="last")
        return models.loc[order.index[0]]

    def missed(self, row: Mapping[str, Any] | pd.Series) -> list[str]:
        """The columns of ``limits`` that a row misses; a missing figure misses its limit."""
        return [
            column
            for column, limit in self.limits.items()
            if not (pd.notna(row.get(column)) and met(of_column(column), float(row[column]), limit))
        ]

    def choices(self) -> dict[str, pd.Series]:
        """Rows of ``front`` by the names of :mod:`objectives.choosing`; empty if no model fits.

        A model fits if it meets the constraints. If the job has no bound on the drop, it must also
        lose at most one point; if no model does, only the most accurate one fits.
        """
        models = self.models
        fits = [not self.missed(row) for _, row in models.iterrows()]
        models = models[pd.Series(fits, index=models.index, dtype=bool)]
        if "accuracy_drop" not in self.limits:
            usual = met(BY_NAME["accuracy_drop"], models["accuracy_drop"].astype("float64"), USUAL_BAR)
            models = models[usual] if usual.any() else models.sort_values("accuracy_drop", kind="stable").head(1)
        named = named_choices(_mappings(models), cast("Mapping[str, Any]", self.baseline), self.cost)
        return {name: models.iloc[index] for name, index in named.items()}

    @property
    def cost(self) -> str:
        """The quantity by which models are called cheap: the first cost objective of the job."""
        return cost_objective(self.job.get("objectives") or ())

    def cheapest_by_drop(self) -> pd.DataFrame:
        """The cheapest rows of ``front`` for every allowed drop, the most accurate first.

        Of the rows within an allowed drop, the last one is the cheapest.
        """
        models = self.models
        found = cheapest_by_drop(_mappings(models), cast("Mapping[str, Any]", self.baseline), self.cost)
        return models.iloc[found].reset_index(drop=True)

    def recommended(self) -> pd.Series | None:
        """The recommended model, as a row of ``front``; None if none meets the constraints.

        It is the best trade of cost for accuracy among the models that :meth:`choices` names.
        """
        return self.choices().get(TRADE)

    def why_none(self) -> str:
        """Why no model is recommended, for errors."""
        if self.every_trial_failed:
            return f"every trial of {self.folder} failed"
        if self.front.empty:
            return f"the search of {self.folder} is not over, so no model is recommended yet"
        if self.models.empty:
            return f"the search of {self.folder} found no model"
        return f"no model of {self.folder} meets the constraints"

    @property
    def neutral(self) -> dict[str, Any]:
        """The neutral values of the parameters of methods, by name."""
        return dict(self.summary.get("neutral") or {})

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended the search, so that the front was not measured again or tested."""
        return self.summary.get("ended") == INTERRUPTED

    @property
    def every_trial_failed(self) -> bool:
        """Whether there are trials, and all of them failed."""
        return not self.trials.empty and bool((self.trials["status"] == "failed").all())

    def __repr__(self) -> str:
        table = self._table().to_string(index=False, float_format="{:.4g}".format)
        return self._head() if self.front.empty else f"{self._head()}\n{table}"

    def _repr_html_(self) -> str:
        # Imported by name, because results must not import the report.
        text: str = importlib.import_module("autocompress.report.notebook").run_html(self)
        return text

    def _head(self) -> str:
        counts = self.trials["status"].value_counts()
        trials = "".join(f", {counts[status]} {status}" for status in STATUSES if status in counts.index)
        return f"{self.folder}: {len(self.models)} models on the front; {len(self.trials)} trials{trials}"

    def _table(self) -> pd.DataFrame:
        columns = ["trial", "accuracy", "test_accuracy", "accuracy_drop", "latency_ratio", "size_ratio", "artifact"]
        return self.front[columns]


def _mappings(table: pd.DataFrame) -> list[Mapping[str, Any]]:
    return cast("list[Mapping[str, Any]]", table.to_dict("records"))


def _limits(job: Mapping[str, Any], baseline: Mapping[str, Any] | pd.Series) -> dict[str, float]:
    """See :attr:`SearchResult.limits`.

    The bound of an unknown constraint is read as a number.
    """
    limits: dict[str, float] = {}
    for name, given in (job.get("constraints") or {}).items():
        if given is None:
            continue
        if name not in BY_NAME or not BY_NAME[name].units:
            limits[name] = float(given)
        else:
            bound = Bound.model_validate(parse_bound(name, given))
            limits |= by_column({name: bound}, cast("Mapping[str, Any]", baseline))
    return limits


def require_run(folder: Path) -> None:
    """Refuses a folder that is not a run.

    Raises:
        UserError: if it is not one.
    """
    if (folder / JOB_FILE).is_file():
        return
    runs = sorted(str(path.parent) for path in folder.glob(f"*/{JOB_FILE}")) if folder.is_dir() else []
    hint = f"runs there: {', '.join(runs[:5])}" if runs else "give the folder of a search, results/<name>"
    what = f"it has no {JOB_FILE}" if folder.is_dir() else "there is no such folder"
    raise UserError(f"{folder} is not a run: {what}", hint)


def read(folder: str | Path) -> SearchResult:
    """Reads ``results/<name>``, also while the search is running.

    Raises:
        UserError: if the folder is not a run, or one of its files is broken.
    """
    folder = Path(folder)
    require_run(folder)
    try:
        job = yaml.safe_load((folder / JOB_FILE).read_text(encoding="utf-8"))
        summary_file = folder / SUMMARY_FILE
        summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.exists() else {}
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{folder} cannot be read: {error}", "the files of a run must not be changed") from error
    if not isinstance(job, dict) or not isinstance(summary, dict):
        raise UserError(f"{folder} cannot be read: {JOB_FILE} and {SUMMARY_FILE} must hold keys and values")
    trials, front = read_trials(folder), read_front(folder)
    return SearchResult(folder, job, trials, front, summary, read_sensitivity(folder), read_tables(folder))

"""Closes a search: measures the front again, scores it on the test split, writes the files."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.compression.artifact import METRICS_FILE, MODEL_FILE, load_deployed
from autocompress.contract import Deployable, Manager, Measurement
from autocompress.data import Scored, task_of, unsealed
from autocompress.devices.lock import MachineLock
from autocompress.errors import UserError
from autocompress.files import write_json
from autocompress.objectives.bounds import excess, explain, misses
from autocompress.objectives.figures import ratio
from autocompress.objectives.fronts import fastest_within, front_rows
from autocompress.report import words
from autocompress.results import (
    BASELINE,
    COLUMNS,
    FRONT_COLUMNS,
    SUMMARY_FILE,
    Row,
    read,
    write_front,
    write_trials,
)
from autocompress.searching.cropping import crop_told
from autocompress.searching.elsewhere import measured_also
from autocompress.searching.explaining import Explainer, allowed
from autocompress.searching.gates import TORCH_MODEL, Lock
from autocompress.searching.measurer import Measurer
from autocompress.searching.modelfiles import KeptModels, accuracy_bar, drop_files, still_there, with_artifact
from autocompress.searching.reach import OutOfReach, still_out
from autocompress.searching.searchable import SearchableJob
from autocompress.searching.summary import Summary, only

log = logging.getLogger("autocompress.search")
FRONT_SECONDS = 3.0
"""Seconds of latency measurement for each model of the front."""
MOST_NAMED = 3
"""Maximum number of trials that a note names; it counts more of them."""


def save_trials(folder: Path, rows: Sequence[Row]) -> None:
    """Writes trials.csv from the study's rows."""
    write_trials(folder, [only(COLUMNS, with_artifact(folder, row)) for row in rows])


def _is_slow(row: Mapping[str, Any]) -> bool:
    """Whether the search scored the torch model instead of the file."""
    return row.get("accuracy_of") == TORCH_MODEL


def _first_latency(trials: Sequence[int], models: int) -> str:
    """What becomes of the models of ``trials`` that cannot be measured again, of ``models``."""
    if len(trials) > MOST_NAMED:
        return f"{len(trials)} of {models} models keep their first latency"
    if len(trials) == 1:
        return f"the model of trial {trials[0]} keeps its first latency"
    return f"the models of trials {words.join(map(str, trials))} keep their first latency"


@dataclass
class Closing:
    """Closes a run.

    Args:
        opened: the opened job.
        measurer: its devices.
        folder: ``results/<name>``.
        baseline: the baseline's row.
        lock: the machine lock.
        out_of_reach: constraints that none of the cheapest recipes meets.
        tell: called with further notes for the user.
        notes: notes for the summary; those of the closing are added.
    """

    opened: SearchableJob
    measurer: Measurer
    folder: Path
    baseline: Row
    lock: Lock = field(default_factory=MachineLock)
    out_of_reach: Sequence[OutOfReach] = ()
    tell: Callable[[str], None] = log.info
    notes: Sequence[str] = ()
    _whole: np.ndarray | None = None
    _crop: Mapping[str, Any] = field(default_factory=dict)
    _also: Sequence[dict[str, Any]] = ()
    _failed: list[tuple[str, str | int]] = field(default_factory=list)
    """The errors of a device, each with what is missing, or with the trial of an old latency."""

    def close(self, rows: Sequence[Row], seconds: float, ended: str, plugins: Manager) -> dict[str, Any]:
        """Writes front.csv, trials.csv and summary.json; returns the summary.

        Sealed test images are read here only. Without test images, there is no accuracy on them.
        """
        test = self.opened.splits.test
        with unsealed(test):
            return self._close(rows, seconds, ended, plugins, has_test=len(test) > 0)

    def close_early(self, rows: Sequence[Row], seconds: float, ended: str, plugins: Manager) -> dict[str, Any]:
        """Writes the same files without measuring or scoring anything.

        Latencies are those of the trials, and there are no figures of the test split.
        Models that a later closing may need are not deleted.
        """
        there = still_there(self.folder, rows)
        front = front_rows(self.opened.job.objectives, there, self.baseline)
        front = [{**row, **self._ratios(row)} for row in front]
        self._settle_baseline(front, measure=False)
        fastest = fastest_within(there, accuracy_bar(self.opened.job))
        fastest = None if fastest is None else {**fastest, **self._ratios(fastest)}
        return self._write(rows, front, {}, fastest, seconds, ended, plugins)

    def _close(
        self, rows: Sequence[Row], seconds: float, ended: str, plugins: Manager, *, has_test: bool
    ) -> dict[str, Any]:
        objectives = self.opened.job.objectives
        test_correct = None
        if has_test:
            test_accuracy, test_correct = self._accuracy(self.opened.baseline.deployable)
            self.baseline |= {"test_accuracy": test_accuracy, "test_accuracy_drop": 0.0}
        if self.opened.splits.whole_val is not None:
            self.baseline["accuracy"], self._whole = self._accuracy(self.opened.baseline.deployable, "whole_val")
        candidates = KeptModels(self.folder, self.opened.job, self.baseline, rows).rows
        again = [self._again(row, None if _is_slow(row) else test_correct) for row in candidates]
        # A model with a lucky first measurement may be dominated, or miss a bound, in the second
        # one.
        front = front_rows(objectives, again, self.baseline)
        fastest = fastest_within(again, accuracy_bar(self.opened.job))
        named = front if fastest is None or any(row is fastest for row in front) else [*front, fastest]
        for row in named:
            if _is_slow(row) and test_correct is not None:  # slow in the runtime, so only for the models that are shown
                tested, interval = self._tested(row, test_correct)
                row |= tested
                self._keep_metrics(self.folder / row["artifact"], row, interval, row["latency"]["noisy"])
        self._settle_baseline(again)
        with self._noted("the effect of the tap crop is not measured"):
            self._crop = crop_told(self.opened, self.measurer, self.folder)
        self._tell_failures(len(candidates))
        self._also = measured_also(self.opened.job, front, self._file, self.opened.baseline.deployable, plugins)
        shown = {row["trial"] for row in named}
        drop_files(self.folder, (row for row in rows if row["trial"] not in shown))
        # The second measurement is longer, so the table and the report show it where it exists.
        summary = self._write(rows, front, {row["trial"]: row for row in again}, fastest, seconds, ended, plugins)
        return self._explained(rows, again, summary, seconds)

    def _explained(self, rows: Sequence[Row], again: Sequence[Row], summary: Row, seconds: float) -> dict[str, Any]:
        """Adds the effect of each stage of the recommended recipe, when all files are written.

        Accuracies are computed on the images that judged trials.
        """
        most = allowed(seconds) if self.opened.job.search.explain else 0.0
        best = read(self.folder).recommended() if most else None
        if best is None:
            return summary
        chosen = next(row for row in again if row["trial"] == best["trial"])
        judged = next(row for row in rows if row["trial"] == best["trial"])
        row = {**chosen, **{name: judged[name] for name in ("accuracy", "accuracy_drop")}}
        explainer = Explainer(self.opened, self.measurer, self.lock, self.folder, self.baseline, most)
        try:
            told = explainer.told(row)
        except KeyboardInterrupt:
            log.info("interrupted: the steps of the recommended recipe are left out, all else is there")
            return summary
        summary = {**summary, "explained": told}
        write_json(self.folder / SUMMARY_FILE, summary)
        return summary

    def _write(
        self,
        rows: Sequence[Row],
        front: Sequence[Row],
        final: Mapping[int, Row],
        fastest: Row | None,
        seconds: float,
        ended: str,
        plugins: Manager,
    ) -> dict[str, Any]:
        """Writes the run's files.

        ``final`` holds the rows that were measured again, by trial. ``fastest`` is the
        fastest model within the accuracy bar.
        """
        head = {**self.baseline, "status": BASELINE}
        write_front(self.folder, [only(FRONT_COLUMNS, with_artifact(self.folder, row)) for row in (head, *front)])
        rows = [final.get(row["trial"], row) for row in rows]
        save_trials(self.folder, rows)
        told = Summary(self.opened, self.folder, self.baseline, rows, front)
        summary = {
            **told.of_rows(fastest, judged=None if self._whole is None else len(self._whole)),
            **told.of_job(plugins),
            "seconds": round(seconds, 1),
            "ended": ended,
            "tap_crop": dict(self._crop),
            "also": list(self._also),
            "out_of_reach": [
                found.state() for found in still_out(self.out_of_reach, self.opened.job, rows, self.baseline)
            ],
        }
        summary["notes"] = [*summary["notes"], *self.notes]
        write_json(self.folder / SUMMARY_FILE, summary)
        return summary

    def _again(self, row: Row, baseline_correct: np.ndarray | None) -> Row:
        """``row``, measured again beside the baseline and scored on the test split, if any.

        ``baseline_correct`` has the marks of the baseline on the test images.
        """
        base = self.opened.baseline
        home, deployable = self.folder / row["artifact"], self._file(row)
        measured = Measurement(**row["latency"])
        if not self.measurer.deterministic:
            with self._noted(int(row["trial"])), self.measurer.told():
                measured = self.measurer.latency(
                    deployable, base.deployable, seconds=FRONT_SECONDS, constraints=self.opened.job.constraints
                )
        tested: Row = {}
        interval: list[float] | None = None
        if baseline_correct is not None:
            tested, interval = self._tested(row, baseline_correct)
        new = {
            **row,
            "latency": asdict(measured),
            "latency_ms": measured.latency_ms,
            "latency_ratio": measured.latency_ratio,
            **tested,
        }
        validated = None if _is_slow(row) else self._validated(row)
        new |= {} if validated is None else validated[0]
        new |= self._ratios(new)
        bounds = self.opened.job.constraints.all_bounds()
        new["excess"] = excess(bounds, new, self.baseline)
        missed = misses(new["excess"])
        new["status"] = "infeasible" if missed else "complete"
        # The reason must have the same figures as the table.
        again = "measured again: " if row["status"] == "complete" else ""
        before = row["reason"] if row["status"] == "complete" else ""  # a rung without a gain
        new["reason"] = again + explain(missed, bounds, new, self.baseline) if missed else before
        self._keep_metrics(home, new, interval, measured.noisy, None if validated is None else validated[1])
        return new

    def _ratios(self, row: Row) -> Row:
        """The columns that only the front has."""
        latency = row.get("latency") or {}
        return {
            "latency_ratio_low": latency.get("ratio_low"),
            "latency_ratio_high": latency.get("ratio_high"),
            "size_ratio": ratio("size", row, self.baseline),
            "energy_ratio": ratio("energy", row, self.baseline),
        }

    def _file(self, row: Row) -> Deployable:
        home, size = self.folder / row["artifact"], self.opened.baseline.deployable.input_size
        return Deployable(home / MODEL_FILE, size, module=partial(load_deployed, home))

    def _tested(self, row: Row, baseline_correct: np.ndarray) -> tuple[Row, list[float]]:
        """The columns of the test split, with the interval of the drop."""
        accuracy, correct = self._accuracy(self._file(row))
        paired = task_of(self.opened.job).task().interval(correct, baseline_correct)
        tested = {"test_accuracy": accuracy, "test_accuracy_drop": self.baseline["test_accuracy"] - accuracy}
        return tested, [-paired.high, -paired.low]

    def _validated(self, row: Row) -> tuple[Row, list[float]] | None:
        """Accuracy on all validation images, and the interval of its drop.

        None if all of these images judged the trials already.
        """
        if self._whole is None:
            return None
        accuracy, correct = self._accuracy(self._file(row), "whole_val")
        paired = task_of(self.opened.job).task().interval(correct, self._whole)
        figures = {"accuracy": accuracy, "accuracy_drop": self.baseline["accuracy"] - accuracy}
        return figures, [-paired.high, -paired.low]

    def _accuracy(self, deployable: Deployable, split: Scored = "test") -> tuple[float, np.ndarray]:
        """Accuracy of a file on a split.

        Measurements on this machine go first, because scoring uses the processor as training does.
        """
        with self.lock.shared():
            return self.opened.accuracy(deployable, split, self.lock.breathe)

    def _keep_metrics(
        self,
        home: Path,
        row: Row,
        interval: list[float] | None,
        noisy: bool,
        validated: list[float] | None = None,
    ) -> None:
        file = home / METRICS_FILE
        metrics = json.loads(file.read_text(encoding="utf-8"))
        figures = {
            name: row[name] for name in FRONT_COLUMNS if name in row and name not in ("recipe", "status", "reason")
        }
        metrics |= {**figures, "latency": row["latency"], "noisy": noisy}
        metrics |= {} if interval is None else {"test_accuracy_drop_interval": interval}
        metrics |= {} if validated is None else {"accuracy_drop_interval": validated}
        write_json(file, metrics)

    @contextmanager
    def _noted(self, without: str | int) -> Iterator[None]:
        """Keeps the UserError of a device that fails for a note, because trials need a report.

        ``without`` says what is missing then, or is the trial whose model keeps its first latency.
        """
        try:
            yield
        except UserError as error:
            log.warning("the device failed in the closing", exc_info=error)
            self._failed.append((error.message, without))

    def _tell_failures(self, models: int) -> None:
        """Tells in one note for each error of a device what it left out.

        Args:
            models: number of models that were measured again.
        """
        for message in dict.fromkeys(message for message, _ in self._failed):
            left_out = [without for own, without in self._failed if own == message]
            trials = [one for one in left_out if isinstance(one, int)]
            lacking = [_first_latency(trials, models)] if trials else []
            note = f"{message}; {words.join([*lacking, *(one for one in left_out if isinstance(one, str))])}"
            self.notes = (*self.notes, note)
            self.tell(note)
        self._failed.clear()

    def _settle_baseline(self, beside: Sequence[Row], *, measure: bool = True) -> None:
        """The baseline's latency: its median over the rows, or measured alone if there are none."""
        file = self.opened.baseline.deployable
        figures = [row["latency"]["baseline_ms"] for row in beside if row.get("latency")]
        if not figures and measure:
            with self._noted("the latency of the baseline is not known"), self.measurer.told():
                figures = [self.measurer.once(file, file, FRONT_SECONDS).baseline_ms]
        ones = ("latency_ratio", "latency_ratio_low", "latency_ratio_high", "size_ratio")
        latency = statistics.median(figures) if figures else None
        self.baseline |= {"latency_ms": latency, **dict.fromkeys(ones, 1.0)}
        self.baseline["energy_ratio"] = None if self.baseline.get("energy_uj") is None else 1.0

"""Gates: the steps of a trial, the cheapest first.

A trial ends at the first gate where it misses a bound, or at an error. In both cases it has a row.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from autocompress.compression.candidate import Candidate
from autocompress.contract import Deployable, Measurement, Value
from autocompress.contract.raised import one_line, raised
from autocompress.data import task_of
from autocompress.errors import CannotWork, InvalidRecipe, TrialFailed
from autocompress.files import digest, is_full_disk, kept_if_possible, write_json
from autocompress.objectives.bounds import excess, explain, misses
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import Recipe
from autocompress.results import Row
from autocompress.searching.measurer import Measurer
from autocompress.searching.modelfiles import artifact_folder
from autocompress.searching.promotion.rows import begun, climbed
from autocompress.searching.rundir import scratch_folder
from autocompress.searching.searchable import SearchableJob

GATE_SECONDS = 0.5
"""Seconds of latency measurement at the gate before training.

The front is measured for longer at the end.
"""
BORDERLINE_SECONDS = 2.0
"""Seconds of each further measurement of a file whose interval contains a bound."""
FILE, TORCH_MODEL = "file", "torch model"
"""Whether the accuracy on validation is that of the file or of the torch model.

It is the column ``accuracy_of`` of a row.
"""
log = logging.getLogger("autocompress.search")


class Lock(Protocol):
    """The lock of the machine, shared for training, exclusive for measuring (``devices.lock``)."""

    def shared(self) -> AbstractContextManager[Any]:
        """Holds the lock shared, for training."""

    def breathe(self) -> None:
        """Releases the lock for a measurement that waits."""


@dataclass
class _Miss(Exception):
    """The trial ends at a gate."""

    names: list[str]


@dataclass
class Trial:
    """One trial, which passes the gates in order.

    Args:
        opened: the opened job.
        measurer: its devices.
        lock: the machine lock.
        number: number of the trial in the study.
        folder: ``results/<name>``.
        baseline: the baseline's row.
        progress: called with the finished fraction and a word.
        judge: whether the trial ends at a gate where it misses a bound. If False, all costs are
            measured.
        rung: the rung that the recipe is trained to.
        least_accuracy: a model that is not better than this gets no artifact.
    """

    opened: SearchableJob
    measurer: Measurer
    lock: Lock
    number: int
    folder: Path
    baseline: Mapping[str, Any]
    progress: Callable[[float, str], None] | None = None
    judge: bool = True
    rung: int = 0
    least_accuracy: float = -math.inf
    row: Row = field(default_factory=dict)
    stage: str = "compose"
    spent: dict[str, float] = field(default_factory=dict)

    def run(self, values: Mapping[str, Value], label: str = "") -> Row:
        """Runs the recipe ``values`` and returns its row.

        The row has the columns of trials.csv, and ``label``, ``excess`` (distance from each
        constraint), ``stages`` (seconds), cache counts, and the environment of the latency
        measurement. Only exceptions that end the process are raised (KeyboardInterrupt,
        CannotWork).
        """
        started = time.perf_counter()
        self.row = {"trial": self.number, "rung": self.rung, "recipe": dict(values), "label": label}
        try:
            with tempfile.TemporaryDirectory(dir=scratch_folder(self.folder)) as scratch:
                self._through_the_gates(values, Path(scratch))
            self._settle()
        except _Miss as miss:
            self._settle(miss.names)
        except CannotWork:  # not a fault of the recipe
            raise
        except InvalidRecipe as error:
            self.row |= {"status": "infeasible", "reason": str(error), "excess": {"valid": 1.0}}
        except TrialFailed as error:
            self.row |= {"status": "failed", "reason": f"{self.stage}: {self._no_room(error) or error}"}
        except (MemoryError, torch.OutOfMemoryError) as error:
            self.row |= {"status": "failed", "reason": f"{self.stage}: out of memory: {one_line(error)}"}
        except Exception as error:  # a plugin's fault must not end the search
            log.exception("trial %d failed in %s", self.number, self.stage)
            what = self._no_room(error) or raised(error)
            self.row |= {"status": "failed", "reason": f"{self.stage}: {what}"}
        self.row["seconds"] = round(time.perf_counter() - started, 3)
        self.row["stages"] = {name: round(seconds, 4) for name, seconds in self.spent.items()}
        return begun(self.row) if "family" in self.row and not self.rung else self.row

    def climb(self, below: Row, rung: int) -> Row:
        """Trains the recipe of ``below``, the row of its last rung, to ``rung``.

        Returns:
            Its new row. If the training fails or gains nothing, the row keeps the model of the rung
            below.
        """
        self.rung, self.least_accuracy = rung, below["accuracy"]
        left = self.folder / artifact_folder(self.number, rung)
        shutil.rmtree(left, ignore_errors=True)  # files of an attempt that was killed before its row was kept
        return climbed(below, self.run(below["recipe"], below["label"]), rung)

    # --- the gates --------------------------------------------------------------------------------

    def _through_the_gates(self, values: Mapping[str, Value], scratch: Path) -> None:
        with self._timed("compose"):
            recipe = self.opened.compose(Replay(values))
        self.row["recipe_key"] = recipe.key
        trained = self.opened.at_rung(recipe, self.rung)
        if trained is not None:
            recipe, self.row["family"] = trained, recipe.family
        kept = self._structure_file(recipe)
        known = _read_kept(kept)
        if known:
            self.row |= known["columns"]
            self._check(known["latency"])
        elif recipe.trains:  # a miss on cost must not be trained, so a dry run is measured first
            _, dry = self._built(recipe, scratch / "dry.onnx", dry_run=True)
            known = self._structure(dry, kept)
        candidate, deployable = self._built(recipe, scratch / "model.onnx")
        if known:
            self._costs(candidate, deployable, known)
        else:  # making it was as cheap as a dry run, so one export is enough
            known = self._structure(deployable, kept)
            self.row["latency"] = known["latency"]
        self._agreement(candidate, deployable)
        self._accuracy(candidate, deployable)
        if not self.row["accuracy"] > self.least_accuracy:
            return
        with self._timed("save"):
            home = self.folder / artifact_folder(self.number, self.rung)
            self.opened.save_artifact(candidate, deployable, home, self._metrics())
            self.row["artifact"] = home.relative_to(self.folder).as_posix()

    def _structure_file(self, recipe: Recipe) -> Path:
        """The file with the costs of the recipe's structure.

        The costs are valid for one machine class, one runtime version and one baseline.
        """
        key = digest(recipe.structural_key, self.measurer.measured_with(), self.opened.baseline.key)
        return self.folder / "structures" / f"{key}.json"

    def _built(self, recipe: Recipe, file: Path, *, dry_run: bool = False) -> tuple[Candidate, Deployable]:
        """The candidate and its file, from a dry run or the whole recipe.

        The trial ends if parameters or MACs miss a bound.
        """
        # Building and exporting load the machine as training does, so a measurement at the same
        # time would be noisy.
        with self._timed("candidate" if dry_run else "train"), self.lock.shared():
            # A dry run is usually fast. It is slow if scores decide the structure, and need images
            # of a source.
            candidate = self.opened.candidate(recipe, dry_run=dry_run, progress=self.progress, pause=self.lock.breathe)
        if not dry_run:
            self.row |= {"cache_hits": candidate.cache_hits, "cache_misses": candidate.cache_misses}
            self.row["float_layers"] = list(candidate.float_layers)
            self.row["divergence"] = candidate.divergence
            self.row["tap_crop"] = candidate.crop.told()
        if not self.row.get("params"):
            self.row |= {"params": candidate.params, "macs": candidate.macs}
            self._check()
        with self._timed("export"), self.lock.shared():
            return candidate, self.opened.export(candidate, file)

    def _structure(self, deployable: Deployable, kept: Path) -> dict[str, Any]:
        """Gates 0 and 1: size and latency of a file.

        The results are stored by structure, because costs hardly depend on weights.
        """
        self.row["size_bytes"] = deployable.file.stat().st_size
        self._check()
        with self._timed("measure"):
            measured = self._measured(deployable)
        self.row |= _measured_columns(measured)
        columns = ("params", "macs", "size_bytes", "latency_ms", "latency_ratio", "energy_uj")
        known = {"columns": {name: self.row[name] for name in columns}, "latency": asdict(measured)}
        with kept_if_possible(kept.parent):
            write_json(kept, known)
        self._check(known["latency"])
        return known

    def _costs(self, candidate: Candidate, deployable: Deployable, structure: Mapping[str, Any]) -> None:
        """Costs of the finished file.

        The latency of the dry run is used if parameters and MACs are the same, as the contract
        requires. If a method breaks the contract, the finished file is measured.
        """
        promised = structure["columns"]
        self.row["size_bytes"] = deployable.file.stat().st_size
        if (candidate.params, candidate.macs) == (promised["params"], promised["macs"]):
            self.row["latency"] = structure["latency"]
            return
        log.warning("trial %d: the finished model differs from its dry run; measured again", self.number)
        self.row |= {"params": candidate.params, "macs": candidate.macs}
        with self._timed("measure"):
            measured = self._measured(deployable)
        self.row |= {**_measured_columns(measured), "latency": asdict(measured)}

    def _agreement(self, candidate: Candidate, deployable: Deployable) -> None:
        """Fails a trial if its file and its torch model have different outputs."""
        with self._timed("agreement"), self.lock.shared():
            found = self.opened.agreement(candidate, deployable, self.lock.breathe)
        if math.isfinite(found.max_error):
            self.row["file_agreement"] = found.labels
        if found.fault:
            raise TrialFailed(found.fault)

    def _accuracy(self, candidate: Candidate, deployable: Deployable) -> None:
        """Accuracy on validation, of the file, or of the torch model if the file is slow."""
        with self._timed("accuracy"), self.lock.shared():  # both load the machine as training does
            if candidate.slow:
                accuracy, correct = self.opened.model_accuracy(candidate, self.lock.breathe)
                self.row |= {"accuracy_of": TORCH_MODEL, "note": candidate.slow}
            else:
                accuracy, correct = self.opened.accuracy(deployable, "val", self.lock.breathe)
                self.row["accuracy_of"] = FILE
        if not math.isfinite(accuracy):
            raise TrialFailed("the accuracy is not a number")
        drop = self.baseline["accuracy"] - accuracy
        self.row |= {"accuracy": float(accuracy), "accuracy_drop": float(drop), "accuracy_rung0": None}
        # If the labels are the baseline's predictions, accuracy is agreement with the baseline.
        self.row["agreement"] = None if self.baseline.get("agreement") is None else float(accuracy)
        paired = task_of(self.opened.job).task().interval(correct, self.opened.baseline.correct)
        self.row["accuracy_drop_interval"] = [-paired.high, -paired.low]

    def _measured(self, deployable: Deployable) -> Measurement:
        """Costs of a file, measured again if an interval contains a bound."""
        baseline, constraints = self.opened.baseline.deployable, self.opened.job.constraints
        return self.measurer.measure(
            deployable, baseline, seconds=GATE_SECONDS, again=BORDERLINE_SECONDS, constraints=constraints
        )

    # --- judging ----------------------------------------------------------------------------------

    def _check(self, latency: Mapping[str, Any] | None = None) -> None:
        """Ends the trial if a known figure misses a bound.

        A latency misses a bound only if its whole interval does.
        """
        names = misses(self._excess(latency))
        if names and self.judge:
            raise _Miss(names)

    def _excess(self, latency: Mapping[str, Any] | None = None) -> dict[str, float]:
        best = dict(self.row)
        if latency is not None and latency["latency_ratio"] > 0:
            best["latency_ratio"] = latency["ratio_low"]
            best["latency_ms"] = latency["latency_ms"] * latency["ratio_low"] / latency["latency_ratio"]
        return excess(self.opened.job.constraints.all_bounds(), best, self.baseline)

    def _settle(self, names: list[str] | None = None) -> None:
        """Sets status and reason; a finished trial is judged by its median, not by its interval."""
        bounds = self.opened.job.constraints.all_bounds()
        self.row["excess"] = excess(bounds, self.row, self.baseline)
        names = names or misses(self.row["excess"])
        self.row["status"] = "infeasible" if names else "complete"
        self.row["reason"] = explain(names, bounds, self.row, self.baseline) if names else ""

    # --- small things -----------------------------------------------------------------------------

    def _no_room(self, error: Exception) -> str:
        """The reason of a trial that failed because the disk is full; empty for other errors."""
        return f"there is no room left to write to {self.folder}" if is_full_disk(error) else ""

    def _metrics(self) -> dict[str, Any]:
        """The content of metrics.json: the figures of the row, and the seconds of each stage."""
        kept = {name: value for name, value in self.row.items() if name not in ("recipe", "label")}
        return {**kept, "noisy": self.row["latency"]["noisy"], "seconds_by_stage": dict(self.spent)}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.stage = stage
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - started


def _read_kept(file: Path) -> dict[str, Any]:
    """The costs of a structure in ``file``; empty if the file is missing or damaged."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(known, dict) and all(isinstance(known.get(part), dict) for part in ("columns", "latency"))
    return known if is_whole else {}


def _measured_columns(measured: Measurement) -> dict[str, Any]:
    return {
        "latency_ms": measured.latency_ms,
        "latency_ratio": measured.latency_ratio,
        "energy_uj": measured.energy_uj,
    }

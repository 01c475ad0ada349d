"""Measures the effect of each stage of a recipe, and of a recipe on each layer, after a search."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.contract import Deployable
from autocompress.contract.raised import raised
from autocompress.results import Row
from autocompress.searching.gates import Lock
from autocompress.searching.measurer import Measurer
from autocompress.searching.rundir import scratch_folder
from autocompress.searching.searchable import SearchableJob

SHARE, LEAST_SECONDS, MOST_SECONDS = 0.1, 1.0, 30.0
"""Maximum share of the time of the search; minimum and maximum seconds."""
LAYERS_SHARE = 0.2
"""Share of the time that is left for the layers when the steps end."""
SECONDS = 1.0
"""Seconds of latency measurement for each file."""
log = logging.getLogger("autocompress.search")


def allowed(seconds: float) -> float:
    """Seconds that may be spent after a search of ``seconds``; 0 if they are too few."""
    most = min(MOST_SECONDS, SHARE * seconds)
    return most if most >= LEAST_SECONDS else 0.0


class _TimeIsUp(Exception):
    """There is no time left for the remaining steps."""


@dataclass
class Explainer:
    """Measures the steps of one model of a run.

    Args:
        opened: the opened job.
        measurer: its devices.
        lock: the machine lock.
        folder: folder of the run.
        baseline: the baseline's row.
        seconds: time limit.
    """

    opened: SearchableJob
    measurer: Measurer
    lock: Lock
    folder: Path
    baseline: Mapping[str, Any]
    seconds: float

    def told(self, row: Row) -> dict[str, Any]:
        """The steps and the layers of ``row``, as JSON values.

        The keys are ``trial``; ``limit`` (seconds); ``steps``, each with ``stage``, ``accuracy``,
        ``accuracy_drop``, ``latency_ratio``, ``latency_ratio_low``, ``latency_ratio_high`` and
        ``size_ratio``; ``missing`` (why steps are missing, else empty); ``layers`` (see
        :func:`opened.layers.layer_rows`), each with ``loss`` (the divergence in nats if only this
        layer is compressed, None if it was not computed). Errors here do not affect the run.
        """
        found: dict[str, Any] = {"trial": row["trial"], "limit": round(self.seconds, 1), "steps": [], "missing": ""}
        ends = time.monotonic() + self.seconds
        try:
            for stage, step in self._steps(row, ends - LAYERS_SHARE * self.seconds):
                found["steps"].append({"stage": stage, **step})
        except _TimeIsUp:
            found["missing"] = f"there were {(1 - LAYERS_SHARE) * self.seconds:.0f} s for all steps"
        except Exception as error:
            log.warning("the steps of trial %s were not measured", row["trial"], exc_info=error)
            found["missing"] = raised(error)
        return {**found, "layers": self._layers(row, ends)}

    def _steps(self, row: Row, ends: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """The figures after each stage; those of the last stage are the figures of the row."""

        def pause() -> None:
            self.lock.breathe()
            if time.monotonic() > ends:
                raise _TimeIsUp

        stages = self.opened.stages(row["recipe"], row["rung"])
        costs: dict[str, Any] = {}
        size: tuple[int, int] | None = None
        for stage, recipe in stages[:-1]:
            pause()
            with tempfile.TemporaryDirectory(dir=scratch_folder(self.folder)) as scratch:
                with self.lock.shared():
                    candidate = self.opened.candidate(recipe, pause=pause)
                    file = self.opened.export(candidate, Path(scratch) / "step.onnx")
                    score = self.opened.model_accuracy(candidate, pause) if candidate.slow else None
                    accuracy, _ = self.opened.accuracy(file, "val", pause) if score is None else score
                if size != (candidate.params, candidate.macs):
                    size, costs = (candidate.params, candidate.macs), self._costs(file)
            drop = self.opened.baseline.accuracy - accuracy
            yield stage, {"accuracy": float(accuracy), "accuracy_drop": float(drop), **costs}
        if stages:
            latency = row.get("latency") or {}
            yield (
                stages[-1][0],
                {
                    **{name: row.get(name) for name in ("accuracy", "accuracy_drop", "latency_ratio")},
                    "latency_ratio_low": latency.get("ratio_low"),
                    "latency_ratio_high": latency.get("ratio_high"),
                    "size_ratio": row["size_bytes"] / self.baseline["size_bytes"],
                },
            )

    def _costs(self, file: Deployable) -> dict[str, Any]:
        """Latency and size as ratios to the baseline."""
        measured = self.measurer.once(file, self.opened.baseline.deployable, SECONDS)
        return {
            "latency_ratio": measured.latency_ratio,
            "latency_ratio_low": measured.ratio_low,
            "latency_ratio_high": measured.ratio_high,
            "size_ratio": file.file.stat().st_size / self.baseline["size_bytes"],
        }

    def _layers(self, row: Row, ends: float) -> list[dict[str, Any]]:
        try:
            layers = self.opened.layers(self.folder / row["artifact"])
        except Exception as error:
            log.warning(
                "the layers of trial %s could not be described: %s: %s", row["trial"], type(error).__name__, error
            )
            return []
        losses = self._losses(row, ends - time.monotonic())
        return [{**layer, "loss": losses.get(layer["layer"])} for layer in layers]

    def _losses(self, row: Row, seconds: float) -> dict[str, float]:
        """The divergence of each layer alone."""
        try:
            with self.lock.shared():
                return self.opened.layer_losses(self.folder / row["artifact"], seconds)
        except Exception as error:
            log.warning("the losses of the layers of trial %s are unknown: %s", row["trial"], raised(error))
            return {}

"""A real run without a search.

Two models of a small network, exported and scored. Tests that read runs and run model files use it.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from autocompress import results
from autocompress.compression.artifact import load
from autocompress.contract import Deployable, Measurement
from autocompress.files import write_json
from autocompress.job import Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.results import Row

RATIOS = {0: 0.8, 1: 0.5}
"""Latency ratios by trial. They are made up, so that nothing is measured."""


def small_job(folder: Path, teacher: Path) -> Job:
    """A job of test_resnet on digits, with existing weights."""
    asked = {"methods": ["obs", "quantize"], "budget": {"trials": 2, "epochs": 0}, "constraints": {"latency": "0.6x"}}
    return load_job(
        settings={
            **asked,
            "model": "test_resnet",
            "checkpoint": teacher,
            "data": "digits",
            "results": folder.parent,
            "name": folder.name,
        }
    )


def write_small_run(folder: Path, teacher: Path) -> Path:
    """Writes the run and returns ``folder``."""
    job = small_job(folder, teacher)
    opened = OpenedJob.open(job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / results.JOB_FILE).write_text(job.to_yaml({"autocompress": "0.1.0"}), encoding="utf-8")
    points = dict(opened.starting_points())
    recipes = [points["8-bit alone"], points["obs and 8-bit"]]
    base: Row = {
        "status": results.BASELINE,
        "accuracy": opened.baseline.accuracy,
        "accuracy_drop": 0.0,
        "latency_ms": 1.0,
        "latency_ratio": 1.0,
        "size_bytes": opened.baseline.size_bytes,
        "params": opened.baseline.params,
        "macs": opened.baseline.macs,
        "test_accuracy": opened.accuracy(opened.baseline.deployable, "test")[0],
        "test_accuracy_drop": 0.0,
        "size_ratio": 1.0,
    }
    rows = [_row(opened, folder, number, values, base) for number, values in enumerate(recipes)]
    results.write_front(folder, [base, *rows])
    results.write_trials(folder, [{name: row.get(name) for name in results.COLUMNS} for row in rows])
    counts = {"complete": len(rows), "infeasible": 0, "failed": 0}
    images = {"train": len(opened.splits.train), "val": len(opened.splits.val), "test": len(opened.splits.test)}
    environment = {"processor": "made up", "threads": 1}
    summary = {"trials": counts, "images": images, "baseline": base, "environment": environment, "seconds": 9.0}
    write_json(folder / results.SUMMARY_FILE, summary)
    return folder


def _row(opened: OpenedJob, folder: Path, number: int, values: dict[str, Any], base: Row) -> Row:
    recipe = opened.compose(Replay(values))
    candidate = opened.candidate(recipe)
    file = opened.export(candidate, folder / "candidate.onnx")
    ratio, home = RATIOS[number], folder / "artifacts" / str(number)
    measured = Measurement(ratio, ratio, 0.95 * ratio, 1.05 * ratio, 1.0, None, False, {"processor": "made up"})
    opened.save_artifact(candidate, file, home, {"trial": number, "latency": asdict(measured), "noisy": False})
    file.file.unlink()
    kept = Deployable(home / "model.onnx", file.input_size, module=partial(load, home))
    accuracy, test = opened.accuracy(kept, "val")[0], opened.accuracy(kept, "test")[0]
    size = kept.file.stat().st_size
    return {
        "trial": number,
        "status": "complete",
        "accuracy": accuracy,
        "accuracy_drop": base["accuracy"] - accuracy,
        "latency_ms": measured.latency_ms,
        "latency_ratio": ratio,
        "latency_ratio_low": measured.ratio_low,
        "latency_ratio_high": measured.ratio_high,
        "size_bytes": size,
        "size_ratio": size / base["size_bytes"],
        "params": candidate.params,
        "macs": candidate.macs,
        "seconds": 1.0,
        "rung": 0,
        "recipe": dict(recipe.values),
        "artifact": f"artifacts/{number}",
        "test_accuracy": test,
        "test_accuracy_drop": base["test_accuracy"] - test,
    }

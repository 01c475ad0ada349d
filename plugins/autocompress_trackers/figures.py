"""Data for trackers: figures of a row, parameters of a recipe, settings of a job, files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.files import flattened
from autocompress.job import Job

FIGURES = (
    "accuracy",
    "accuracy_drop",
    "agreement",
    "latency_ms",
    "latency_ratio",
    "size_bytes",
    "params",
    "macs",
    "energy_uj",
    "seconds",
)
"""Columns of trials.csv to send."""
FILES = ("report.html", "report.md", "front.png", "front.csv", "trials.csv", "summary.json", "job.yaml")
"""Files of the run to send at the end."""


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row that are known."""
    found = {name: _number(row.get(name)) for name in FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def settings(job: Job) -> dict[str, Any]:
    """The job as a flat mapping: ``device.threads: 1``."""
    return flattened(job.model_dump(mode="json"))


def summary(result: Any) -> dict[str, float]:
    """Figures of a finished run: hypervolume, models, and those of the recommended model."""
    found = {"front_models": float(len(result.models))}
    if (hypervolume := _number(result.summary.get("hypervolume"))) is not None:
        found["hypervolume"] = hypervolume
    best = result.recommended()
    return found | ({} if best is None else {f"best_{name}": value for name, value in figures(best).items()})


def files(folder: Path) -> list[Path]:
    """The existing files."""
    return [folder / name for name in FILES if (folder / name).is_file()]

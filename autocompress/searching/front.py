"""The front of a search's rows, what it is worth, and the nearest miss where nothing meets the constraints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.compression.artifact import MODEL_FILE, WEIGHTS_FILE
from autocompress.job import Job
from autocompress.report.front import hypervolume, non_dominated
from autocompress.searching.bounds import Row, objective_values

MOST_CONTENDERS = 16
"""Models whose files are kept and which are measured again at the end, beyond a front that is larger itself."""


def front_rows(job: Job, rows: Iterable[Row], baseline: Mapping[str, Any]) -> list[Row]:
    """The non-dominated of the complete rows, the most accurate first, then the cheapest. Where no trial meets the
    constraints, those of the trials that have an accuracy: a front is given in any case."""
    measured = [row for row in rows if row["status"] != "failed" and _known(row, "accuracy") is not None]
    chosen = [row for row in measured if row["status"] == "complete"] or measured
    if not chosen:
        return []
    kept = non_dominated([_costs(job, row, baseline) for row in chosen])
    front = [row for row, stays in zip(chosen, kept, strict=True) if stays]
    return sorted(_without_twins(job, front, baseline), key=_accurate_first)


def contenders(job: Job, rows: Iterable[Row], baseline: Mapping[str, Any]) -> list[Row]:
    """The front, and what may belong to it within the noise of latency: a row is out only where another is as good in
    everything and its whole interval of latency is better. At most ``MOST_CONTENDERS``, the front's rows first."""
    rows = list(rows)
    front = front_rows(job, rows, baseline)
    others = [row for row in rows if row["status"] == "complete" and not any(row is member for member in front)]
    highs = [_costs(job, _with_latency(row, "ratio_high"), baseline) for row in front]
    close = [
        row
        for row in others
        if not any(_beats(high, _costs(job, _with_latency(row, "ratio_low"), baseline)) for high in highs)
    ]
    close.sort(key=lambda row: (_or_worst(row, "latency_ratio"), *_accurate_first(row)))
    return [*front, *_without_twins(job, close, baseline)][: max(MOST_CONTENDERS, len(front))]


def _known(row: Mapping[str, Any], column: str) -> float | None:
    """A figure of ``row``; None where it was not measured, or is no finite number."""
    value = row.get(column)
    return value if value is not None and math.isfinite(value) else None


def _or_worst(row: Mapping[str, Any], column: str) -> float:
    """A cost of ``row``; infinite where it is not known."""
    value = _known(row, column)
    return math.inf if value is None else value


def _accurate_first(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sorts the most accurate first, then the fastest. What is not known comes last."""
    accuracy = _known(row, "accuracy")
    return (math.inf if accuracy is None else -accuracy, _or_worst(row, "latency_ratio"))


def _with_latency(row: Row, end: str) -> Row:
    """``row`` with its latency at one end of the interval, where it has one."""
    measured = row.get("latency") or {}
    ratio, middle, milliseconds = _known(measured, end), _known(measured, "latency_ratio"), _known(row, "latency_ms")
    if ratio is None or not middle:
        return row
    scaled = None if milliseconds is None else milliseconds * ratio / middle
    return {**row, "latency_ratio": ratio, "latency_ms": scaled}


def _beats(better: Sequence[float], worse: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(better, worse, strict=True)) and list(better) != list(worse)


def _costs(job: Job, row: Row, baseline: Mapping[str, Any]) -> list[float]:
    """The objectives, all to be minimised; what is not known is infinitely bad."""
    values = objective_values(job, row, baseline)
    signs = [-1.0 if objective == "accuracy" else 1.0 for objective in job.objectives]
    return [
        math.inf if value is None or not math.isfinite(value) else sign * value
        for sign, value in zip(signs, values, strict=True)
    ]


def _without_twins(job: Job, front: Sequence[Row], baseline: Mapping[str, Any]) -> list[Row]:
    """Of rows with equal objectives the first: the second tells nobody anything."""
    seen: dict[tuple[float, ...], Row] = {}
    for row in front:
        seen.setdefault(tuple(_costs(job, row, baseline)), row)
    return list(seen.values())


def front_hypervolume(front: Sequence[Row]) -> float | None:
    """Over accuracy drop and log2 of the speed-up, 0 to 1; None where latency was not measured."""
    judged = [
        row for row in front if (_known(row, "latency_ratio") or 0.0) > 0.0 and _known(row, "accuracy_drop") is not None
    ]
    if front and not judged:
        return None
    return hypervolume([row["accuracy_drop"] for row in judged], [row["latency_ratio"] for row in judged])


def nearest_miss(rows: Iterable[Row]) -> Row | None:
    """Where no row is complete, the infeasible one that is least beyond its constraints (at equal distance one with an
    accuracy, which knows all of them); else None."""
    rows = list(rows)
    if any(row["status"] == "complete" for row in rows):
        return None
    return next(iter(by_distance(rows)), None)


def by_distance(rows: Iterable[Row]) -> list[Row]:
    """The infeasible rows whose recipes can be built, the nearest to the constraints first."""
    missed = [row for row in rows if row["status"] == "infeasible" and "valid" not in (row.get("excess") or {})]
    return sorted(missed, key=lambda row: (_beyond(row), _known(row, "accuracy") is None))


def _beyond(row: Row) -> float:
    """How far ``row`` is beyond all its constraints together; infinite where nothing is known."""
    known = [value for value in (row.get("excess") or {}).values() if value is not None]
    return sum(value if math.isfinite(value) else math.inf for value in known if not value <= 0) if known else math.inf


def drop_dominated_files(folder: Path, rows: Iterable[Row], front: Iterable[Row]) -> None:
    """Deletes the model files of trials that are not on the front: a search over large models would fill the disk.
    Their recipe, plan and metrics stay."""
    kept = {row["trial"] for row in front}
    for row in rows:
        if row.get("artifact") and row["trial"] not in kept:
            for name in (MODEL_FILE, WEIGHTS_FILE):
                (folder / row["artifact"] / name).unlink(missing_ok=True)


def still_there(folder: Path, rows: Iterable[Row]) -> list[Row]:
    """``rows`` without those whose model was deleted: an earlier closing found them worse than they had seemed, so they
    must not keep newcomers from the front."""
    return [row for row in rows if not row.get("artifact") or with_artifact(folder, row)["artifact"]]


def with_artifact(folder: Path, row: Row) -> Row:
    """``row``, naming its artifact only while the model is there."""
    artifact = row.get("artifact") or ""
    there = bool(artifact) and (folder / artifact / MODEL_FILE).exists()
    return {**row, "artifact": artifact if there else ""}

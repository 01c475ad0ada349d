"""Values for the template of the page, from the files of a run; no HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from autocompress.objectives import intervals
from autocompress.objectives.quantities import of_column
from autocompress.report import datafree, words
from autocompress.report.metric import is_accuracy, judged, metric
from autocompress.results import STATUSES, SearchResult


@dataclass(frozen=True)
class FrontModel:
    """A row of the front for the page: texts, empty for missing values."""

    trial: str
    recipe: str
    accuracy: str
    accuracy_interval: str
    test_accuracy: str
    test_interval: str
    change: str
    change_interval: str
    test_change: str
    test_change_interval: str
    latency: str
    latency_interval: str
    latency_ms: str
    size: str
    size_ratio: str
    energy: str
    energy_ratio: str
    macs: str
    params: str
    misses: str
    noisy: bool
    float_layers: list[str]
    cropped: str
    files: list[tuple[str, str, str]]
    is_baseline: bool
    recommended: bool


def front_models(result: SearchResult, *, intervals_of_accuracy: bool = True) -> list[FrontModel]:
    """The rows of the front for the page, the baseline first, then by accuracy.

    Args:
        result: the run.
        intervals_of_accuracy: whether to add the intervals of accuracies, which only the page
            shows.
    """
    chosen = result.recommended()
    chosen_trial = None if chosen is None else chosen["trial"]
    table = result.front
    models = result.models.sort_values("accuracy", ascending=False, kind="stable")
    rows = [table.iloc[0]] if len(table) else []
    rows += [row for _, row in models.iterrows()]
    images = (result.summary.get("images") or {}) if intervals_of_accuracy and is_accuracy(result) else {}
    return [_front_model(result, row, chosen_trial, images) for row in rows]


def _front_model(result: SearchResult, row: pd.Series, chosen: Any, images: Mapping[str, int]) -> FrontModel:
    folder = _artifact_folder(result.folder, row["artifact"])
    repeated = (result.summary.get("metrics") or {}).get(str(row["trial"])) or {}
    metrics = {**repeated, **_metrics(folder)}
    is_baseline = bool(pd.isna(row["trial"]))
    return FrontModel(
        trial="baseline" if is_baseline else str(row["trial"]),
        recipe="uncompressed" if is_baseline else words.recipe(row["recipe"], result.neutral),
        accuracy=words.percent(row["accuracy"]),
        accuracy_interval=_wilson(row["accuracy"], images.get("val")),
        test_accuracy=words.percent(row["test_accuracy"]),
        test_interval=_wilson(row["test_accuracy"], images.get("test")),
        change="" if is_baseline else words.points(-row["accuracy_drop"]),
        change_interval=_change_interval(metrics.get("accuracy_drop_interval")),
        test_change="" if is_baseline else words.points(-row["test_accuracy_drop"]),
        test_change_interval=_change_interval(metrics.get("test_accuracy_drop_interval")),
        latency=words.ratio(row["latency_ratio"]),
        latency_interval="" if is_baseline else _between(row["latency_ratio_low"], row["latency_ratio_high"]),
        latency_ms=words.milliseconds(row["latency_ms"]),
        size=words.size(row["size_bytes"]),
        size_ratio=words.ratio(row["size_ratio"]),
        energy=words.microjoules(row["energy_uj"]),
        energy_ratio=words.ratio(row["energy_ratio"]),
        macs=words.count(row["macs"]),
        params=words.count(row["params"]),
        misses="" if is_baseline else ", ".join(of_column(column).short for column in result.missed(row)),
        noisy=bool(metrics.get("noisy")),
        float_layers=_float_layers(metrics),
        cropped=_cropped(metrics.get("tap_crop")),
        files=_files(result.folder, folder),
        is_baseline=is_baseline,
        recommended=bool(not is_baseline and chosen is not None and row["trial"] == chosen),
    )


def wishes(result: SearchResult) -> list[str]:
    """The constraints as text: ``accuracy drop at most 1 point``."""
    limits = result.limits.items()
    return [f"{of_column(column).short} at most {words.limit(column, value)}" for column, value in limits]


def headline(result: SearchResult) -> str:
    """The result of the search in one or two sentences."""
    if result.every_trial_failed:
        reason, trials = reasons(result, "failed")[0]
        share = "each time" if len(trials) == len(result.trials) else f"{len(trials)} times"
        return f"Every trial failed ({len(result.trials)} of {len(result.trials)}); {share}: {reason}"
    if result.front.empty:
        return "No front yet."
    if result.trials.empty:
        return f"No trial was made: {result.summary.get('ended') or 'the search is not over'}."
    best = result.recommended()
    if best is None:
        wish = words.join(wishes(result)) if result.limits else "the constraints"
        return f"No model of the front meets {wish}. {nearest_miss(result)}".strip()
    costs = [(f"{words.ratio(best['latency_ratio'])} the latency", best["latency_ratio"])]
    costs += [(f"{words.ratio(best['size_ratio'])} the size", best["size_ratio"])]
    costs += [(f"{words.ratio(best['energy_ratio'])} the energy", best["energy_ratio"])]
    told = words.join([text for text, value in costs if pd.notna(value)] or ["unknown cost"])
    if datafree.is_by_agreement(result):
        text = (
            f"Trial {best['trial']} has {told}; it has the prediction of the baseline for "
            f"{words.percent(best['accuracy'])} of {datafree.held_out(result)}, which is agreement and not accuracy"
        )
        unit = " points"
    else:
        change = words.points(-best["accuracy_drop"])
        text, unit = f"Trial {best['trial']} has {told}; {judged(result)} changes by {change} points", ""
    if pd.notna(best["test_accuracy_drop"]):
        verb = " changes" if unit else ""
        text += (
            f"{';' if unit else ','} test {metric(result)}{verb} by {words.points(-best['test_accuracy_drop'])}{unit}"
        )
    return f"{text}."


def interruption(result: SearchResult) -> str:
    """The sentence for a run that Ctrl-C ended; empty for other runs."""
    if not result.is_interrupted:
        return ""
    budget = result.job.get("budget") or {}
    done = len(result.trials)
    return (
        f"The search was interrupted after {done} of {budget.get('trials', '?')} trials. Its front was not "
        f"measured again, nor scored on the test split. 'autocompress resume {result.folder}' continues; with "
        f"--trials {max(1, done)} it does both and ends."
    )


def nearest_miss(result: SearchResult) -> str:
    """The sentence on the nearest miss; empty if there is none."""
    miss = result.summary.get("nearest_miss")
    if not miss:
        return ""
    reason = f": {miss['reason']}" if miss.get("reason") else ""
    return f"The nearest miss is trial {miss.get('trial', '?')}{reason}."


def fastest(result: SearchResult) -> str:
    """The sentence on the fastest model within the bound on accuracy; empty if there is none."""
    row = result.summary.get("fastest_within_bar")
    if not row:
        return ""
    best = result.recommended()
    if best is not None and best["trial"] == row.get("trial"):
        return f"It is the fastest model found that loses at most {words.drop(row['points'])}."
    missed = row.get("reason") if row.get("status") != "complete" else ""  # else it is the reason of a rung
    reason = f"; {missed}" if missed else ""
    return (
        f"The fastest model that loses at most {words.drop(row['points'])} is trial {row['trial']}: "
        f"{words.ratio(row['latency_ratio'])} the latency, {words.points(-row['accuracy_drop'])} points{reason}."
    )


def tap_crop(result: SearchResult) -> str:
    """The effect of the tap crop alone on the float baseline; empty if it changes nothing."""
    found = result.summary.get("tap_crop")
    if not found:
        return ""
    return (
        f"Tap crop: {_cropped(found)} at this size of image. Every candidate's file leaves them out, which changes no "
        f"output and is no pruning. The float baseline without them has {words.ratio(found['latency_ratio'])} the "
        f"latency ({_between(found['latency_ratio_low'], found['latency_ratio_high'])}) and "
        f"{words.ratio(found['size_ratio'])} the size; all ratios here are against the baseline with them."
    )


def warnings(result: SearchResult) -> list[str]:
    """Warnings about the figures, one sentence each."""
    texts = []
    noisy = [row.trial for row in front_models(result) if row.noisy]
    if noisy:
        texts.append(
            f"Latency was noisy for trial{'s' * (len(noisy) > 1)} {words.join(noisy)}: the interval is too wide to "
            "trust the ratio. Measure again on an idle machine."
        )
    texts += [
        f"No recipe can meet {found['quantity']} {found['bound']}: the lowest value that can be reached is about "
        f"{found['nearest']} ({found['candidate']})."
        for found in result.summary.get("out_of_reach") or []
    ]
    texts += datafree.warnings(result)
    texts += [f"{note[:1].upper()}{note[1:]}." for note in result.summary.get("notes") or []]
    images = (result.summary.get("images") or {}).get("val")
    drop = result.limits.get("accuracy_drop")
    kind = datafree.kind(result)
    if images and is_accuracy(result) and drop is not None and drop < 4 * intervals.one_image(images):
        allowed = int(drop * images / 100)
        texts.append(
            f"One {kind} image is {intervals.one_image(images):.2f} points: a limit of {words.drop(drop)} allows "
            f"{allowed} image{'' if allowed == 1 else 's'} to change."
        )
    broken = (result.summary.get("plugins") or {}).get("broken") or {}
    for name, reason in broken.items():
        texts.append(f"Plugin '{name}' is broken and was skipped: {reason}")
    failed = int((result.trials["status"] == "failed").sum())
    if failed:
        texts.append(f"{failed} of {len(result.trials)} trials failed; their reasons are listed below.")
    if result.front.empty:
        texts.append("There is no front yet: the search is still running, or it was stopped before its end.")
    return texts


def rungs(result: SearchResult) -> list[str]:
    """The gain from training on each rung above 0, one sentence for each."""
    texts = []
    for rung, found in (result.summary.get("rungs") or {}).items():
        count, spearman = found["trained"], found["spearman"]
        recipes = f"{count} recipe{'' if count == 1 else 's'}"
        text = f"Rung {rung}: {recipes} trained, {found['gained']} gained, {found['points']:.2f} points in the mean"
        if spearman is not None:
            text += f"; rank correlation (Spearman) of accuracy on rung 0 and on rung {rung}: {spearman:.2f}"
        texts.append(f"{text}.")
    return texts


def reasons(result: SearchResult, status: str) -> list[tuple[str, list[int]]]:
    """(reason, trials) of the trials with ``status``, the most frequent first.

    Reasons that differ only in numbers count as one, with the text of the first.
    """
    table = result.trials[result.trials["status"] == status]
    found: dict[str, tuple[str, list[int]]] = {}
    for trial, reason in zip(table["trial"], table["reason"], strict=True):
        kind = re.sub(r"\d+", "0", str(reason))
        found.setdefault(kind, (str(reason) or "no reason given", []))[1].append(int(trial))
    return sorted(found.values(), key=lambda item: (-len(item[1]), item[1]))


def counts(result: SearchResult) -> list[tuple[str, int]]:
    """(status, trials) in the order of ``STATUSES``."""
    found = result.trials["status"].value_counts()
    return [(status, int(found.get(status, 0))) for status in STATUSES]


def flat(values: Mapping[str, Any] | None, prefix: str = "") -> list[tuple[str, str]]:
    """Rows (dotted name, text) of a nested mapping."""
    rows: list[tuple[str, str]] = []
    for key, value in (values or {}).items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value)) or words.MISSING))
        else:
            rows.append((name, words.MISSING if value is None else str(value)))
    return rows


def _wilson(accuracy: Any, images: int | None) -> str:
    if not images or pd.isna(accuracy):
        return ""
    found = intervals.wilson(round(float(accuracy) * images / 100), images)
    return f"{found.low:.1f} to {found.high:.1f}"


def _between(low: Any, high: Any) -> str:
    return "" if pd.isna(low) or pd.isna(high) else f"{words.ratio(low)} to {words.ratio(high)}"


def _change_interval(drop: Any) -> str:
    if not isinstance(drop, list | tuple) or len(drop) != 2:
        return ""
    return f"{words.points(-drop[1])} to {words.points(-drop[0])}"


def _artifact_folder(folder: Path, artifact: Any) -> Path | None:
    """The folder of an artifact, if it is inside that of the run, so that no link leaves it."""
    if pd.isna(artifact) or not str(artifact):
        return None
    path = (folder / str(artifact)).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_dir() else None


def _metrics(folder: Path | None) -> dict[str, Any]:
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _float_layers(metrics: Mapping[str, Any]) -> list[str]:
    """Layers that compute in float; empty for a model that is completely float."""
    return [str(name) for name in metrics.get("float_layers") or []]


def _cropped(found: Any) -> str:
    """The weights that a tap crop leaves out, as text; empty if there are none."""
    if not isinstance(found, Mapping) or not found.get("layers"):
        return ""
    layers = int(found["layers"])
    plural = "s" if layers > 1 else ""
    return f"{words.count(found['weights'])} weights of {layers} layer{plural} only ever meet padding"


def _files(run: Path, folder: Path | None) -> list[tuple[str, str, str]]:
    """(name, link relative to the page, size) of the files of an artifact."""
    if folder is None:
        return []
    base = folder.relative_to(run.resolve()).as_posix()
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [(path.name, quote(f"{base}/{path.name}"), words.size(path.stat().st_size)) for path in files]

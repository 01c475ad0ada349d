"""Computes the values that the template of the HTML page shows, from the files of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from autocompress.objectives import intervals
from autocompress.objectives.quantities import of_column
from autocompress.report import datafree, texts, words
from autocompress.report.metric import is_accuracy, judged, metric
from autocompress.report.reasons import kind, together
from autocompress.results import STATUSES, SearchResult


@dataclass(frozen=True)
class FrontModel:
    """A model of the front as the page shows it. Texts are empty where a value is missing.

    Attributes:
        trial: number of the trial, or "baseline".
        recipe: description of the recipe.
        parameters: (name, value) of the whole recipe.
        accuracy, test_accuracy: accuracy on the validation and on the test split.
        change, test_change: accuracy minus that of the baseline, in points.
        latency, size_ratio, energy_ratio: costs as ratios to the baseline.
        latency_ms, size, energy, macs, params: costs with their units.
        accuracy_interval, test_interval, change_interval, test_change_interval, latency_interval:
            95 % intervals.
        misses: names of the quantities whose constraints are missed.
        noisy: whether the interval of the latency is too wide.
        float_layers: layers that compute in float; empty for a model that is completely float.
        cropped: the weights that the tap crop leaves out.
        files: name, link relative to the page, and size of each file of the model.
        is_baseline: whether the model is the baseline.
        recommended: whether the model is the recommended one.
    """

    trial: str
    recipe: str
    parameters: list[tuple[str, str]]
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
    """Returns the models of the front: the baseline first, then the others by falling accuracy.

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
        parameters=[] if is_baseline else flat(row["recipe"]),
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
    """Returns the constraints as texts, for example ``accuracy drop at most 1 point``."""
    limits = result.limits.items()
    return [f"{of_column(column).short} at most {words.limit(column, value)}" for column, value in limits]


def headline(result: SearchResult) -> str:
    """Returns the result of the search in one or two sentences."""
    if result.every_trial_failed:
        reason, trials = reasons(result, "failed")[0]
        share = "each time" if len(trials) == len(result.trials) else f"{len(trials)} times"
        return f"Every trial failed ({len(result.trials)} of {len(result.trials)}); {share}: {texts.short(reason)}"
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
    """Returns a sentence on a run that was ended by Ctrl-C; empty for other runs."""
    if not result.is_interrupted:
        return ""
    budget = result.job.get("budget") or {}
    done = len(result.trials)
    return (
        f"The search was interrupted after {done} of {budget.get('trials', '?')} trials. Its front was not "
        f"measured again, nor scored on the test split. 'autocompress resume {result.folder}' continues the search; "
        f"with --trials {max(1, done)} it runs no more trials, but measures and scores the front, and ends."
    )


def nearest_miss(result: SearchResult) -> str:
    """Returns a sentence on the trial that came closest to the constraints; empty without one."""
    miss = result.summary.get("nearest_miss")
    if not miss:
        return ""
    reason = f": {miss['reason']}" if miss.get("reason") else ""
    return f"The nearest miss is trial {miss.get('trial', '?')}{reason}."


def fastest(result: SearchResult) -> str:
    """Returns a sentence on the fastest model within the bound on accuracy; empty without one."""
    row = result.summary.get("fastest_within_bar")
    if not row:
        return ""
    best = result.recommended()
    if best is not None and best["trial"] == row.get("trial"):
        return f"It is the fastest model found that loses at most {words.drop(row['points'])}."
    # The reason of a complete row is about a rung without a gain.
    missed = row.get("reason") if row.get("status") != "complete" else ""
    reason = f"; {missed}" if missed else ""
    return (
        f"The fastest model that loses at most {words.drop(row['points'])} is trial {row['trial']}: "
        f"{words.ratio(row['latency_ratio'])} the latency, {words.points(-row['accuracy_drop'])} points of "
        f"{judged(result)}{reason}."
    )


def tap_crop(result: SearchResult) -> str:
    """Describes the effect of the tap crop alone on the float baseline; empty without an effect."""
    found = result.summary.get("tap_crop")
    if not found:
        return ""
    return (
        f"Tap crop: {_cropped(found)} at this size of image. Every candidate's file leaves them out, which changes no "
        f"output and is no pruning. The float baseline without them has {words.ratio(found['latency_ratio'])} the "
        f"latency ({_between(found['latency_ratio_low'], found['latency_ratio_high'])}) and "
        f"{words.ratio(found['size_ratio'])} the size; all ratios here are against the baseline that "
        "still has these weights."
    )


def _unmeasured(result: SearchResult) -> str:
    """Returns a sentence on couplings without a measured loss; empty if there are none."""
    rows = result.tables[result.tables["axis"] == "structure"]
    known = {name: int(own["divergence"].notna().sum()) for name, own in rows.groupby("name", sort=False)}
    lacking = [str(name) for name, count in known.items() if count <= 1]  # keeping all channels loses nothing
    if not lacking:
        return ""
    return (
        f"The loss without channels was not measured in {len(lacking)} of {len(known)} places, so proposals do not "
        f"remove any there: {words.join(lacking)}."
    )


def warnings(result: SearchResult) -> list[str]:
    """Returns warnings about the figures, one or two sentences each."""
    texts = []
    noisy = [row.trial for row in front_models(result) if row.noisy]
    if noisy:
        texts.append(
            f"Latency was noisy for trial{'s' * (len(noisy) > 1)} {words.join(noisy)}: the interval is too wide to "
            "trust the ratio. Measure again on an idle machine."
        )
    texts += [
        f"The cheapest recipes miss {found['quantity']} {found['bound']}: their lowest value is about "
        f"{found['nearest']} ({found['candidate']})."
        for found in result.summary.get("out_of_reach") or []
    ]
    texts += filter(None, [_unmeasured(result)])
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
    """Returns a sentence for each rung above 0: the gain in accuracy from its training."""
    texts = []
    for rung, found in (result.summary.get("rungs") or {}).items():
        count, spearman = found["trained"], found["spearman"]
        recipes = f"{count} recipe{'' if count == 1 else 's'}"
        text = f"Rung {rung}: {recipes} trained, {found['gained']} gained accuracy"
        text += f"; mean gain {found['points']:.2f} points"
        if spearman is not None:
            text += f"; rank correlation (Spearman) of accuracy on rung 0 and on rung {rung}: {spearman:.2f}"
        texts.append(f"{text}.")
    return texts


def reasons(result: SearchResult, status: str) -> list[tuple[str, list[int]]]:
    """Returns the reasons of the trials with ``status``, each with its trials.

    The most frequent reason comes first. Reasons that differ only in numbers count as one reason,
    which has the range of each number.
    """
    table = result.trials[result.trials["status"] == status]
    found: dict[str, list[tuple[str, int]]] = {}
    for trial, reason in zip(table["trial"], table["reason"], strict=True):
        text = str(reason) or "no reason given"
        found.setdefault(kind(text), []).append((text, int(trial)))
    told = [(together([text for text, _ in own]), [trial for _, trial in own]) for own in found.values()]
    return sorted(told, key=lambda item: (-len(item[1]), item[1]))


def counts(result: SearchResult) -> list[tuple[str, int]]:
    """Returns each status with its number of trials, in the order of ``STATUSES``."""
    found = result.trials["status"].value_counts()
    return [(status, int(found.get(status, 0))) for status in STATUSES]


def flat(values: Mapping[str, Any] | None, prefix: str = "") -> list[tuple[str, str]]:
    """Returns the values of a nested mapping as pairs of a dotted name and a text."""
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
    """Returns the folder of an artifact, or None if it is not inside the folder of the run.

    So links on the page never lead out of the folder of the run.
    """
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
    """Returns the layers that compute in float; empty for a model that is completely float."""
    return [str(name) for name in metrics.get("float_layers") or []]


def _cropped(found: Any) -> str:
    """Describes the weights that a tap crop leaves out; empty if there are none."""
    if not isinstance(found, Mapping) or not found.get("layers"):
        return ""
    layers = int(found["layers"])
    plural = "s" if layers > 1 else ""
    return f"{words.count(found['weights'])} weights of {layers} layer{plural} only ever meet padding"


def _files(run: Path, folder: Path | None) -> list[tuple[str, str, str]]:
    """Returns the name, the link relative to the page, and the size of each file of an artifact."""
    if folder is None:
        return []
    base = folder.relative_to(run.resolve()).as_posix()
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [(path.name, quote(f"{base}/{path.name}"), words.size(path.stat().st_size)) for path in files]

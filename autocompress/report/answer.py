"""The answer of a run at the top of the page: the model, its figures, and how to use it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.objectives.choosing import ACCURATE, CHEAPEST, TRADE
from autocompress.objectives.quantities import BY_NAME
from autocompress.report import datafree, view, words
from autocompress.report.metric import judged, metric
from autocompress.report.story import story
from autocompress.results import SearchResult


@dataclass(frozen=True)
class Figure:
    """One figure of the recommended model.

    Attributes:
        label: name of the figure.
        value: the figure as text.
        interval: the 95 % interval, empty if unknown.
        note: the reference of the figure.
    """

    label: str
    value: str
    interval: str
    note: str


@dataclass(frozen=True)
class Other:
    """Another model that a user may want.

    Attributes:
        name: "fastest" or "most accurate".
        trial: number of the trial.
        cost: relative to the baseline.
        change: change of accuracy, in points.
    """

    name: str
    trial: int
    cost: str
    change: str


@dataclass(frozen=True)
class Answer:
    """The texts on the recommended model at the top of the page.

    Attributes:
        trial: number of the model's trial.
        speed: in words: "10.6 times as fast as the baseline".
        change: change of accuracy in words: "no accuracy lost".
        story: (step, description) of its recipe, in plain words.
        recipe: (parameter, value) of the whole recipe.
        figures: figures with intervals.
        others: the cheapest and the most accurate model within the constraints.
        export, try_it: commands; empty if the files of the model are missing.
    """

    trial: int
    speed: str
    change: str
    story: list[tuple[str, str]]
    recipe: list[tuple[str, str]]
    figures: list[Figure]
    others: list[Other]
    export: str
    try_it: str

    @property
    def names_the_fastest(self) -> bool:
        """Whether ``others`` tells of the fastest model."""
        return any(other.name == words.superlative("latency") for other in self.others)


def answer(result: SearchResult) -> Answer | None:
    """The answer; None if no model is recommended."""
    chosen = result.choices()
    if TRADE not in chosen:
        return None
    best = chosen[TRADE]
    front = view.front_models(result)
    model = next(model for model in front if model.recommended)
    cost = BY_NAME[result.cost]
    share = cost_share(result, best, cost.name)
    folder = _shown(result.folder)
    has_files = any(name == "model.onnx" for name, _, _ in model.files)
    words_of = shlex.quote(f"{result.folder.name}-model")
    return Answer(
        trial=int(best["trial"]),
        speed=words.gain(cost.name, share),
        change=_change(result, best),
        story=story(best["recipe"], result.neutral),
        recipe=view.flat(best["recipe"]),
        figures=_figures(result, model, front[0]),
        others=_others(result, chosen, cost.name),
        export=f"autocompress export {shlex.quote(folder)} --trial {model.trial} --to {words_of}" if has_files else "",
        try_it=f"python {words_of}/infer.py picture.png" if has_files else "",
    )


def cost_share(result: SearchResult, row: pd.Series, cost: str) -> float | None:
    """The cost of a model divided by that of the baseline; None if one of them is missing."""
    quantity = BY_NAME[cost]
    if quantity.ratio_column:
        own, whole = row[quantity.ratio_column], 1.0
    else:
        own, whole = row[quantity.column], result.baseline[quantity.column]
    return float(own) / float(whole) if pd.notna(own) and pd.notna(whole) and whole else None


def _change(result: SearchResult, row: pd.Series) -> str:
    """The change on validation, and on test images if they were scored, in a few words."""
    if datafree.is_by_agreement(result) and pd.notna(row["accuracy_drop"]):
        return f"the baseline's answer for {words.percent(row['accuracy'])} of {datafree.held_out(result)}"
    told = [_compared(row["accuracy_drop"], judged(result))]
    if pd.notna(row["test_accuracy_drop"]):
        told.append(_compared(row["test_accuracy_drop"], f"test {metric(result)}"))
    return ", ".join(told)


def _compared(drop: float | None, what: str) -> str:
    """``0.70 points less test accuracy``."""
    if pd.isna(drop):
        return f"{what} unknown"
    if abs(drop) < 0.005:
        return f"the same {what}"
    points = f"{abs(drop):.2f} points"
    return f"{points} less {what}" if drop > 0 else f"{points} more {what}"


def _figures(result: SearchResult, model: view.FrontModel, base: view.FrontModel) -> list[Figure]:
    images = result.summary.get("images") or {}
    by_agreement = datafree.is_by_agreement(result)
    found = [
        Figure("Latency", model.latency, model.latency_interval, f"{base.latency_ms} → {model.latency_ms}"),
    ]
    if model.test_accuracy != words.MISSING:
        note = _against(model.test_change, model.test_change_interval, base.test_accuracy)
        found.append(
            Figure(f"Test {metric(result)}{_of(images.get('test'))}", model.test_accuracy, model.test_interval, note)
        )
    label = f"{judged(result)[:1].upper()}{judged(result)[1:]}"
    note = (
        "with the baseline; not accuracy"
        if by_agreement
        else _against(model.change, model.change_interval, base.accuracy)
    )
    found.append(Figure(f"{label}{_of(images.get('val'))}", model.accuracy, model.accuracy_interval, note))
    found.append(Figure("Size", model.size, "", f"{model.size_ratio} of {base.size}"))
    if model.energy != words.MISSING:
        found.append(Figure("Energy an image", model.energy, "", f"{model.energy_ratio} of {base.energy}"))
    macs = f"of {base.macs}; parameters {model.params} of {base.params}"
    return [*found, Figure("Multiply-accumulates", model.macs, "", macs)]


def _of(images: Any) -> str:
    return f", {images:,} image{'' if images == 1 else 's'}" if images else ""


def _against(change: str, interval: str, whole: str) -> str:
    between = f" ({interval})" if interval else ""
    return f"{change}{between} points against {whole}"


def _others(result: SearchResult, chosen: dict[str, pd.Series], cost: str) -> list[Other]:
    found: list[Other] = []
    for key, name in ((CHEAPEST, words.superlative(cost)), (ACCURATE, "most accurate")):
        row = chosen[key]
        if row["trial"] not in (chosen[TRADE]["trial"], *(other.trial for other in found)):
            share = cost_share(result, row, cost)
            found.append(Other(name, int(row["trial"]), words.ratio(share), words.points(-row["accuracy_drop"])))
    return found


def _shown(folder: Path) -> str:
    """The folder for a command: relative if it is below the working directory."""
    try:
        inside = os.path.relpath(folder) if folder.is_absolute() else str(folder)
    except (OSError, ValueError):  # the working directory was removed, or is on another drive
        return str(folder)
    return str(folder) if inside.startswith("..") else inside

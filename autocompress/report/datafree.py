"""Texts for runs without training data or labels: the images, and agreement versus accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd

from autocompress.report import words
from autocompress.results import SearchResult


def is_by_agreement(result: SearchResult) -> bool:
    """Whether candidates were judged by agreement with the baseline."""
    return bool(result.trials["agreement"].notna().any() or pd.notna(result.baseline["agreement"]))


def held_out(result: SearchResult) -> str:
    """The images by which candidates were judged, as text."""
    count = _facts(result).get("held_out")
    return f"{count:,} {kind(result)} images" if count else f"the {kind(result)} images"


def kind(result: SearchResult) -> str:
    """The kind of images by which candidates were judged, in one or two words."""
    if not is_by_agreement(result):
        return "validation"
    return "held-out" if result.summary.get("unlabelled") else "held-out synthetic"


def _facts(result: SearchResult) -> dict[str, Any]:
    """The summary's entry on images without labels; empty where all had labels."""
    return result.summary.get("synthetic") or result.summary.get("unlabelled") or {}


def data_name(result: SearchResult) -> str:
    """The data of the job in a few words: ``digits``, ``none``, ``none, tested on digits``."""
    data = result.job.get("data")
    if isinstance(data, str):
        return data
    splits = data or {}
    if splits.get("train"):
        return str(splits["train"])
    roles = {"val": "judged", "test": "tested"}
    return ", ".join(["none", *(f"{verb} on {splits[split]}" for split, verb in roles.items() if splits.get(split))])


def images_text(result: SearchResult) -> str:
    """The images that replaced labelled training data, and the meaning of figures.

    Empty if training data had labels.
    """
    if not (told := _facts(result)):
        return ""
    if result.summary.get("synthetic"):
        made = words.join(f"{count:,} synthetic images by {name}" for name, count in told["train"].items())
        text = f"There was no training data: recipes were calibrated and trained on {made}."
    else:
        text = f"Recipes were calibrated and trained on {told['train']:,} pictures without labels."
    if is_by_agreement(result):
        text += (
            f" Accuracy and its drop are agreement with the baseline on {held_out(result)}. All trials use the same "
            "images. A drop is disagreement, not lost accuracy."
        )
    return text


def warnings(result: SearchResult) -> list[str]:
    """Warnings about the figures, one or two sentences each."""
    told = images_text(result)
    known = _facts(result)
    seen, classes = known.get("classes_seen"), known.get("classes", 0)
    if not seen or seen >= min(classes, known.get("held_out", 0)) / 2:
        return [told] if told else []
    few = f"The baseline predicts only {seen} of its {classes} classes for the held-out images"
    return [told, f"{few}: agreement means little for the other classes."]

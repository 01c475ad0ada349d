"""What a reader must know of a run without training data, or without labels: what the images were,
and that agreement is not accuracy.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from autocompress.report import words
from autocompress.results import SearchResult


def is_by_agreement(result: SearchResult) -> bool:
    """Whether candidates were judged by agreement with the baseline."""
    return bool(result.trials["agreement"].notna().any() or pd.notna(result.baseline["agreement"]))


def held_out(result: SearchResult) -> str:
    """The images by which candidates were judged, in words."""
    count = _told(result).get("held_out")
    return f"{count:,} {kind(result)} images" if count else f"the {kind(result)} images"


def kind(result: SearchResult) -> str:
    """What sort of images candidates were judged by, in a word or two."""
    if not is_by_agreement(result):
        return "validation"
    return "held-out" if result.summary.get("unlabelled") else "held-out synthetic"


def _told(result: SearchResult) -> dict[str, Any]:
    """What the run says of images without labels; empty where all had some."""
    return result.summary.get("synthetic") or result.summary.get("unlabelled") or {}


def data_name(result: SearchResult) -> str:
    """The job's data in a word or two: ``digits``, ``none``, ``none, tested on digits``."""
    data = result.job.get("data")
    if isinstance(data, str):
        return data
    splits = data or {}
    if splits.get("train"):
        return str(splits["train"])
    roles = {"val": "judged", "test": "tested"}
    return ", ".join(["none", *(f"{verb} on {splits[split]}" for split, verb in roles.items() if splits.get(split))])


def images_told(result: SearchResult) -> str:
    """What took the place of labelled training data, and what the figures then mean; empty in a run
    that had some.
    """
    if not (told := _told(result)):
        return ""
    if result.summary.get("synthetic"):
        made = words.join(f"{count:,} synthetic images by {name}" for name, count in told["train"].items())
        text = f"There was no training data: recipes were calibrated and trained on {made}."
    else:
        text = f"Recipes were calibrated and trained on {told['train']:,} pictures without labels."
    if is_by_agreement(result):
        text += (
            f" Accuracy and its drop are agreement with the baseline on {held_out(result)}, the same for all trials: "
            "a drop is disagreement, not lost accuracy."
        )
    return text


def warnings(result: SearchResult) -> list[str]:
    """What must be known before the figures are trusted, a sentence or two each."""
    told = images_told(result)
    known = _told(result)
    seen, classes = known.get("classes_seen"), known.get("classes", 0)
    if not seen or seen >= min(classes, known.get("held_out", 0)) / 2:
        return [told] if told else []
    few = f"The baseline sees only {seen} of its {classes} classes in the held-out images"
    return [told, f"{few}: agreement says little about the others."]

"""What a reader must know of a run without training data: what the images were, and that agreement
is not accuracy.
"""

from __future__ import annotations

import pandas as pd

from autocompress.report import words
from autocompress.results import SearchResult


def is_by_agreement(result: SearchResult) -> bool:
    """Whether candidates were judged by agreement with the baseline on synthetic images."""
    return bool(result.trials["agreement"].notna().any() or pd.notna(result.baseline["agreement"]))


def held_out(result: SearchResult) -> str:
    """The images by which candidates were judged, in words."""
    count = (result.summary.get("synthetic") or {}).get("held_out")
    return f"{count:,} held-out synthetic images" if count else "the held-out synthetic images"


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
    """What took the place of training data, and what the figures then mean; empty in a run that had
    some.
    """
    synthetic = result.summary.get("synthetic") or {}
    if not synthetic:
        return ""
    made = words.join(f"{count:,} synthetic images by {name}" for name, count in synthetic["train"].items())
    text = f"There was no training data: recipes were calibrated and trained on {made}."
    if is_by_agreement(result):
        text += (
            f" Accuracy and its drop are agreement with the baseline on {held_out(result)}, the same for all trials: "
            "a drop is disagreement, not lost accuracy."
        )
    return text


def warnings(result: SearchResult) -> list[str]:
    """What must be known before the figures are trusted, a sentence or two each."""
    told = images_told(result)
    synthetic = result.summary.get("synthetic") or {}
    seen, classes = synthetic.get("classes_seen"), synthetic.get("classes", 0)
    if not seen or seen >= min(classes, synthetic.get("held_out", 0)) / 2:
        return [told] if told else []
    few = f"The baseline sees only {seen} of its {classes} classes in the held-out images"
    return [told, f"{few}: agreement says little about the others."]

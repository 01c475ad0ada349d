"""The model card in Markdown: purpose, costs and accuracy of the model, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from autocompress.delivery.check import Check
from autocompress.report import datafree, view, words
from autocompress.report.markdown import escaped, fenced, table
from autocompress.report.metric import judged, metric
from autocompress.results import JOB_FILE, SearchResult

MOST_CLASSES = 20
"""Names of classes that the card lists; preprocessing.json has all."""


def card(result: SearchResult, row: Mapping[str, Any], told: Mapping[str, Any], check: Check | None) -> str:
    """The card of the model of ``row``.

    Args:
        result: the run.
        row: row of the trial, with the columns of front.csv or of trials.csv.
        told: preprocessing of pictures (``preprocessing.json``).
        check: the check of the script; None if it did not run.
    """
    job = result.job
    name = escaped(job.get("name", result.folder.name))
    parts = [
        f"# {escaped(job.get('model'))}, compressed (trial {row['trial']} of {name})\n",
        f"{_sentence(result, row)}\n",
        table(["", "this model", "uncompressed"], _figures(result, row)),
        "## Use\n",
        "Needs `onnxruntime`, `numpy` and `Pillow`:\n",
        fenced(_commands(told), "sh"),
        f"{_checked(check, row)}\n",
        "Input: float32 `(N, {}, {}, {})`; output: logits `(N, {})`.\n".format(
            *told["input_size"], len(told["class_names"])
        ),
        _classes(told),
        "## How a picture is prepared\n",
        "".join(f"{number}. {escaped(step, 500)}\n" for number, step in enumerate(told["preprocessing"], 1)),
        f"`session_config`: {escaped(told.get('session_config_when', ''), 500)} `infer.py` sets this option.\n",
        "## What was done\n",
        f"{escaped(words.recipe(row['recipe'], result.neutral), 2000)}.\n",
        fenced(json.dumps(row["recipe"], indent=2), "json"),
        "## How it was measured\n",
        _measured(result),
        "## The job\n",
        fenced((result.folder / JOB_FILE).read_text(encoding="utf-8", errors="replace"), "yaml"),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _sentence(result: SearchResult, row: Mapping[str, Any]) -> str:
    """A sentence about costs and loss."""
    costs = [
        f"{words.ratio(row[column])} the {noun}"
        for column, noun in (("latency_ratio", "latency"), ("size_ratio", "size"), ("energy_ratio", "energy"))
        if pd.notna(row.get(column))
    ]
    kind = "agreement with the uncompressed model" if datafree.is_by_agreement(result) else judged(result)
    told = f"{words.join(costs or ['Unknown cost'])} of the uncompressed model; {kind} changes by "
    told += f"{_points(row['accuracy_drop'])} points"
    if pd.notna(row.get("test_accuracy_drop")):
        told += f", test {metric(result)} by {_points(row['test_accuracy_drop'])}"
    return f"{told}."


def _points(drop: Any) -> str:
    return words.points(None if pd.isna(drop) else -drop)


def _figures(result: SearchResult, row: Mapping[str, Any]) -> list[list[str]]:
    base = result.baseline
    images = result.summary.get("images") or {}
    low, high = row.get("latency_ratio_low"), row.get("latency_ratio_high")
    interval = "" if pd.isna(low) or pd.isna(high) else f" ({words.ratio(low)} to {words.ratio(high)})"
    rows = [
        [f"{judged(result)}{_of(images.get('val'))}", words.percent(row["accuracy"]), words.percent(base["accuracy"])],
        [
            f"test {metric(result)}{_of(images.get('test'))}",
            words.percent(row.get("test_accuracy")),
            words.percent(base["test_accuracy"]),
        ],
        ["latency, 95 % interval", f"{words.ratio(row['latency_ratio'])}{interval}", words.ratio(1.0)],
        ["latency", words.milliseconds(row["latency_ms"]), words.milliseconds(base["latency_ms"])],
        ["file", words.size(row["size_bytes"]), words.size(base["size_bytes"])],
        ["parameters", words.count(row["params"]), words.count(base["params"])],
        ["multiply-adds an image", words.count(row["macs"]), words.count(base["macs"])],
        ["energy an image", words.microjoules(row["energy_uj"]), words.microjoules(base["energy_uj"])],
    ]
    return [line for line in rows if line[1] != words.MISSING]


def _of(images: Any) -> str:
    return f", {images:,} images" if images else ""


def _commands(told: Mapping[str, Any]) -> str:
    if "task" in told:
        return "python infer.py picture.jpg          # the labels of a picture"
    return (
        "python infer.py picture.jpg          # the label of a picture\n"
        "python infer.py --accuracy FOLDER    # FOLDER holds one folder of pictures for each class"
    )


def _checked(check: Check | None, row: Mapping[str, Any]) -> str:
    if check is None:
        return "The script was not tried when this folder was written."
    text = f"Tried when this folder was written: it labels {check.equal} of {check.pictures} {check.of} as the search"
    if check.accuracy is None:
        return f"{text} did."
    text = f"{text} did; {words.percent(check.accuracy)} of its labels are correct"
    return f"{text} ({words.percent(row['accuracy'])} is reported)." if check.is_whole else f"{text}."


def _classes(told: Mapping[str, Any]) -> str:
    names = list(told["class_names"])
    more = f" and {len(names) - MOST_CLASSES} more, in `preprocessing.json`" if len(names) > MOST_CLASSES else ""
    listed = ", ".join(escaped(name, 60) for name in names[:MOST_CLASSES])
    return f"Classes, in the order of the logits: {listed}{more}.\n"


def _measured(result: SearchResult) -> str:
    facts = [row for row in view.flat(result.summary.get("environment")) if row[1] != words.MISSING]
    said = (
        "Latency is a ratio to the uncompressed model. Both ran in alternation on the machine below; "
        "another machine has another ratio. Accuracy is that of this ONNX file.\n"
    )
    return f"{said}\n{table(['', ''], facts, left=2)}" if facts else said

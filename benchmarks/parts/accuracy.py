"""Accuracy of trained low-bit models in ONNX Runtime, compared with float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.contract import Value
from autocompress.opened.job import OpenedJob
from shared.orders import difference
from shared.trained import job_of, recipe_of

TARGETS = {"quantize:4": -0.5, "slb:2": -1.5, "slb:1": -3.0}
"""Targets: minimum points relative to float, with 8-bit activations."""
SPLITS = ("val", "test")


def run(
    model: str,
    data: str,
    epochs: int,
    qat_epochs: int,
    seeds: Sequence[int],
    *,
    widths: Sequence[str] = tuple(TARGETS),
    before: Sequence[dict[str, Any]] = (),
    values: dict[str, Value] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """One row a width; the mean over the seeds of training is compared.

    Args:
        model, data, epochs: the float baseline (one, with seed 0).
        qat_epochs: epochs of the training in QUANTIZE.
        seeds: random seeds of that training.
        widths: rows to measure now.
        before: rows of earlier runs; rows that are not measured now are kept.
        values: values of recipes that differ from the defaults, for example ``{"qat.lr": 5e-4}``.
        keep: called with the part so far after each row.
    """
    opened = OpenedJob.open(job_of(model, data, epochs, qat_epochs=qat_epochs))
    floats = {split: opened.accuracy(opened.baseline.deployable, split)[1] for split in SPLITS}
    part: dict[str, Any] = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "float": {split: 100.0 * float(flags.mean()) for split, flags in floats.items()},
        "rows": [row for row in before if row["weights"] not in widths],
    }
    for weights in widths:
        target = TARGETS[weights]
        row = _row(opened, weights, seeds, floats, values or {})
        row |= {"target": target, "met": all(row[split]["points"] >= target for split in SPLITS)}
        part["rows"].append(row)
        part["met"] = all(row["met"] for row in part["rows"])
        keep(part)
        print(lines({**part, "rows": [row]}), flush=True)
    return part


def _row(
    opened: OpenedJob, weights: str, seeds: Sequence[int], floats: dict[str, np.ndarray], values: dict[str, Value]
) -> dict[str, Any]:
    recipe = recipe_of(opened, weights, 8, {"qat.epochs": opened.job.budget.epochs, **values})
    row: dict[str, Any] = {"weights": weights, "seeds": list(seeds), "recipe": dict(recipe.values)}
    row["training_seconds"] = []
    correct: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for seed in seeds:
        candidate = replace(opened.pipeline, seed=seed).run(recipe)
        row["training_seconds"].append(round(candidate.seconds.get("quantize", 0.0), 1))
        with tempfile.TemporaryDirectory() as folder:
            file = opened.export(candidate, Path(folder) / "model.onnx")
            row["bytes"] = file.file.stat().st_size
            for split in SPLITS:
                correct[split].append(opened.accuracy(file, split)[1])
    for split in SPLITS:
        found = difference(correct[split], [floats[split]] * len(seeds))
        accuracies = [round(100.0 * float(flags.mean()), 2) for flags in correct[split]]
        row[split] = {**found._asdict(), "accuracy": accuracies, "images": len(floats[split])}
    return row


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"{row['weights']:<12} {split:<5} float {part['float'][split]:.2f}  {row[split]['accuracy']}  "
        "{points:+.2f} ({low:+.2f}..{high:+.2f})".format(**row[split])
        + f"  target {row['target']:+.1f}  {'yes' if row[split]['points'] >= row['target'] else 'no'}"
        for row in part["rows"]
        for split in SPLITS
    ]

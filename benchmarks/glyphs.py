"""Accuracy and time of the float baseline on glyphs, with the default training of a job.

Fonts of validation and test images are not in the training images. The target is an accuracy of at
least 85 % on validation images for resnet18 in 12 epochs.

    python benchmarks/glyphs.py [--model resnet18] [--epochs 12] [--seeds 0] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from autocompress import data, models
from autocompress.files import write_json
from autocompress.job import load_job
from autocompress.objectives.intervals import wilson
from autocompress.training import baseline_settings, evaluate, train, versions

TARGET = 85.0


def one(model_name: str, epochs: int, seed: int, images: int | None) -> dict[str, Any]:
    """Trains once, without the cache, and scores validation and test."""
    job = load_job(model=model_name, data="glyphs", baseline={"epochs": epochs}, seed=seed)
    splits = data.load(job.data, **models.preprocessing(job))
    model = models.create(job, splits.info)
    train_split = splits.train if images is None else splits.train.subset(images)
    started = time.perf_counter()
    train(model, train_split, baseline_settings(job), seed=seed, progress=lambda done, _: print(f"{done:.0%}", end=" "))
    seconds = time.perf_counter() - started
    row: dict[str, Any] = {"model": model_name, "epochs": epochs, "seed": seed, "train_seconds": round(seconds, 1)}
    for role, split in (("val", splits.val), ("test", splits.test)):
        accuracy, correct = evaluate(model, split)
        interval = wilson(int(correct.sum()), len(correct))
        row |= {role: accuracy, f"{role}_95": [interval.low, interval.high], f"{role}_images": len(correct)}
    return row


def main() -> None:
    """Prints a line per seed and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, help="number of training images; all by default")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/glyphs.json"))
    chosen = parser.parse_args()
    rows = []
    for seed in chosen.seeds:
        rows.append(one(chosen.model, chosen.epochs, seed, chosen.images))
        print(rows[-1])
    write_json(chosen.out, {"target_val": TARGET, "rows": rows, "versions": versions()})


if __name__ == "__main__":
    main()

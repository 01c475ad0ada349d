"""The job of a new user: a small network must get twice as fast and lose at most one point.

It measures the time until the search finds such a model. The pictures are those of Fashion-MNIST
(Debian's package dataset-fashion-mnist), as 28x28 PNG files in class folders: 2,000 for training,
500 for validation, 1,000 for the test. The time counts from the start of this process, without the
training of the baseline.

    python benchmarks/newcomer.py [--model mobilenetv3_small_050] [--minutes 5] [--seeds 0]
        [--source /usr/share/datasets/fashion-mnist] [--out results/search/newcomer.json]

``--source digits`` uses scikit-learn's digits, to try the script out.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import autocompress
from autocompress.files import write_json
from autocompress.results import SearchResult
from shared.trained import environment

SOURCE = Path("/usr/share/datasets/fashion-mnist")
COUNTS = {"train": 2000, "val": 500, "test": 1000}
IDX_HEADER = {"images": 16, "labels": 8}
"""Number of bytes before the values in an IDX file."""
TARGET_SECONDS = 300


def images_of(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey images ``(N, H, W)``, uint8, and labels ``(N,)``."""
    if source == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return (found.images * 15.9).astype(np.uint8), found.target

    def read(kind: str) -> np.ndarray:
        with gzip.open(Path(source) / f"train-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=IDX_HEADER[kind])

    labels = read("labels")
    return read("images").reshape(len(labels), 28, 28), labels


def written(source: str, folder: Path, seed: int) -> None:
    """Writes a random sample of pictures for each split."""
    images, labels = images_of(source)
    order = np.random.default_rng(seed).permutation(len(labels))
    scale = min(1.0, len(labels) / sum(COUNTS.values()))
    begin = 0
    for split, count in COUNTS.items():
        end = begin + int(scale * count)
        for place in order[begin:end]:
            own = folder / split / f"class{labels[place]}"
            own.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[place]).save(own / f"{place:05}.png")
        begin = end


def row(result: SearchResult, seconds_before: float) -> dict[str, Any]:
    """The figures of a search."""
    seconds = float(result.summary["seconds"]) + seconds_before
    trials = result.trials
    complete = trials[trials["status"] == "complete"]
    found: dict[str, Any] = {
        "baseline_accuracy": result.baseline["accuracy"],
        "ended": result.summary["ended"],
        "seconds": round(seconds, 1),
        "trials": len(trials),
        "is_met": bool(len(complete)),
        "reached": bool(len(complete)) and seconds <= TARGET_SECONDS,
    }
    if len(complete):
        best = complete.sort_values("latency_ratio").iloc[0]
        found |= {name: float(best[name]) for name in ("latency_ratio", "accuracy_drop", "size_bytes")}
        found["recipe"] = best["recipe"]
    return found


def main() -> None:
    """Runs a search for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv3_small_050")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--source", default=str(SOURCE))
    parser.add_argument("--baseline-epochs", type=int, default=None)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--methods", nargs="+", help="methods of the search; all installed ones by default")
    parser.add_argument("--out", type=Path, default=Path("results/search/newcomer.json"))
    asked = parser.parse_args()
    began = psutil.Process(os.getpid()).create_time()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in asked.seeds:
            pictures = Path(folder) / f"pictures{seed}"
            written(asked.source, pictures, seed)
            job: dict[str, Any] = {
                "model": asked.model,
                "data": f"folder:{pictures}",
                "constraints": {"latency": "0.5x", "accuracy_drop": 1.0},
                "budget": {"minutes": asked.minutes, "trials": asked.trials, "until_met": True},
                "seed": seed,
                "results": folder,
                "name": f"newcomer{seed}",
            }
            if asked.baseline_epochs is not None:
                job["baseline"] = {"epochs": asked.baseline_epochs}
            if asked.methods:
                job["methods"] = asked.methods
            before = time.time() - began if not rows else 0.0
            result = autocompress.search(**job)
            rows.append({"seed": seed, **row(result, before)})
            print(rows[-1], flush=True)
            command = f"python benchmarks/newcomer.py --model {asked.model} --seeds {' '.join(map(str, asked.seeds))}"
            about = {"model": asked.model, "source": Path(asked.source).name, "counts": COUNTS, "command": command}
            write_json(asked.out, {**about, "target_seconds": TARGET_SECONDS, **environment(), "rows": rows})


if __name__ == "__main__":
    main()

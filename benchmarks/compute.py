"""Times a training step in both memory formats, and checks the choice of ``channels_last: auto``.

One thread trains each backbone (random weights, images of noise) with torch's default format and
with channels last, alternating in changing order. ``auto`` is the choice of ``is_faster_last``.
Times are processor times, which other processes change little; ratios are relative to the default.

    python benchmarks/compute.py [--models mobilenetv2_050:32 resnet18:32 ...] [--rounds 8]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.compute import Compute
from autocompress.files import write_json
from autocompress.store import Store
from autocompress.testing import example_model
from autocompress.training.layout import FORMATS, is_faster_last, training_step
from int8 import environment

MODELS = ("mobilenetv2_050:32", "resnet18:32", "resnet10t:32", "efficientnet_lite0:64", "resnet50:224")
WORSE = 1.05
"""Largest time of ``auto`` relative to the better format; timings scatter by some percent."""


def run(model: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step in each format, and the ratios to the default."""
    name, size = model.split(":")
    network = example_model(name, (3, int(size), int(size)))
    steps = [training_step(network, Compute(), form) for form in FORMATS]
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        order = (0, 1) if turn % 2 else (1, 0)
        for place in order:
            started = time.thread_time()
            steps[place]()
            seconds[place].append(time.thread_time() - started)
    default, last = (np.array(own[1:]) for own in seconds)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        takes_last = is_faster_last(network, Compute(), Store(Path(folder)))
        chosen_in = time.perf_counter() - started
    ratios = last / default
    auto = float(np.median(ratios)) if takes_last else 1.0
    return {
        "step_ms": round(1000 * float(np.median(default)), 2),
        "channels_last": round(float(np.median(ratios)), 3),
        "spread": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "auto": round(auto, 3),
        "auto_takes_last": takes_last,
        "chosen_in_seconds": round(chosen_in, 2),
        "met": auto <= WORSE * min(1.0, float(np.median(ratios))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="name:pixels")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/compute/compute.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'model':<24}{'default, ms':>12}{'channels last':>15}{'auto':>8}{'chosen in, s':>14}")
    for model in arguments.models:
        row = rows[model] = run(model, arguments.rounds)
        print(
            f"{model:<24}{row['step_ms']:>12.1f}{row['channels_last']:>15.2f}{row['auto']:>8.2f}"
            f"{row['chosen_in_seconds']:>14.1f}",
            flush=True,
        )
    met = all(row["met"] for row in rows.values())
    write_json(arguments.out, {"met": met, "rounds": arguments.rounds, "environment": environment(), "rows": rows})
    print(f"auto is as fast as the better format, within {WORSE - 1:.0%}: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()

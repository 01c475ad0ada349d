"""Compares pruning with its targets: counts, accuracy at half the MACs, latency, cost of scores.

Each part is written to the JSON file when it is finished. Parts can be run one by one. Rows of
``accuracy`` are in a file beside it, and an interrupted run is continued.

    python benchmarks/pruning.py [--parts counts accuracy latency cost] [--models resnet10t] [--out
    FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts import prune_accuracy, prune_cost, prune_counts, prune_latency
from shared.running import put, run_parts

OUT = Path("results/benchmarks/pruning.json")
LINES = {
    "counts": prune_counts.lines,
    "accuracy": prune_accuracy.lines,
    "latency": prune_latency.lines,
    "cost": prune_cost.lines,
}


def runs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name, with the options given."""
    o = chosen
    beside = o.out.with_name(f"{o.out.stem}-accuracy.json")

    def keep(part: dict[str, Any]) -> None:
        put(o.out, LINES, "accuracy", part)

    return {
        "counts": lambda: prune_counts.run(o.counts_models),
        "accuracy": lambda: prune_accuracy.run(
            o.models, o.data, o.epochs, o.recovery_epochs, o.seeds, mode=o.mode, images=o.images, out=beside, keep=keep
        ),
        "latency": lambda: prune_latency.run(
            o.latency_model, o.size, o.multiples, o.seconds, o.runtime_threads, o.mode
        ),
        "cost": lambda: prune_cost.run(o.cost_model, o.data, o.cost_images, o.rounds),
    }


def options() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument(
        "--counts-models", nargs="+", choices=list(prune_counts.TARGETS), default=["resnet50", "cifar-resnet56"]
    )
    parser.add_argument("--models", nargs="+", default=["resnet10t", "mobilenetv2_050"], help="models (part accuracy)")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of float baselines")
    parser.add_argument("--recovery-epochs", type=int, default=2, help="epochs of recovery of each pruned network")
    parser.add_argument("--images", type=int, help="number of training images for scores and recovery; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds of scores and recovery")
    parser.add_argument(
        "--mode", choices=["inner", "group"], default="group", help="mode of removal (parts accuracy and latency)"
    )
    parser.add_argument("--latency-model", default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="size of images in pixels (part latency)")
    parser.add_argument("--multiples", type=int, nargs="+", default=[8, 1], help="multiples of channels (part latency)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds for measuring latency")
    parser.add_argument("--cost-model", default="resnet18")
    parser.add_argument("--cost-images", type=int, default=4096, help="number of images in an epoch (part cost)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds (part cost)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--runtime-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def main() -> None:
    """Runs the parts in order, prints their tables and writes the JSON."""
    run_parts(options().parse_args(), runs, LINES)


if __name__ == "__main__":
    main()

"""Repair without training: what refits are worth on whole networks, and what they cost (docs/repair.md).

    python benchmarks/repair.py [--parts resnet18 mobilenetv2 ghost vit moments] [--threads 2] [--out FOLDER]

Each part writes results/repair/<part>.json and goes on where it was interrupted. Accuracy is on the validation split;
KL is that of the baseline's logits to the candidate's, in nats, on the same images. Nothing is trained except where a
row says "quarter epoch".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from parts import repair_cost, repair_tables

PARTS = {
    "resnet18": repair_tables.resnet18,
    "mobilenetv2": repair_tables.mobilenetv2,
    "ghost": repair_tables.ghost,
    "vit": repair_tables.vit,
    "moments": repair_cost.resnet50,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    parser.add_argument("--epochs", type=int, default=None, help="epochs of the baselines, in place of their own")
    parser.add_argument("--out", type=Path, default=Path("results/repair"), help="folder of the tables")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.parts:
        PARTS[name](asked.out / f"{name}.json", asked.epochs)


if __name__ == "__main__":
    main()

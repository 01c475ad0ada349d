"""Repair without training: what refits are worth on whole networks, and what they cost
(docs/repair.md).

    python benchmarks/repair.py [--parts uniform mobilenetv2 ghost vit moments] [--threads 2]
        [--model resnet18] [--data glyphs] [--out results/repair/repair.json]

Each part writes a table of its own beside ``--out`` and goes on where it was interrupted. Accuracy
is on the validation split; KL is that of the baseline's logits to the candidate's, in nats, on the
same images. Nothing is trained except where a row says "quarter epoch".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from autocompress.files import write_json
from parts import repair_cost, repair_tables

PARTS = ("uniform", "mobilenetv2", "ghost", "vit", "moments")


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    parser.add_argument("--model", default="resnet18", help="of the part 'uniform'")
    parser.add_argument("--data", default="glyphs", help="of the part 'uniform'")
    parser.add_argument("--cuts", nargs="+", default=list(repair_tables.CUTS), help="of the part 'uniform'")
    parser.add_argument("--epochs", type=int, default=None, help="of the baselines, in place of their own")
    parser.add_argument("--out", type=Path, default=Path("results/repair/repair.json"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    tables = {name: asked.out.with_name(f"{name}.json") for name in asked.parts}
    for name, file in tables.items():
        if name == "uniform":
            repair_tables.uniform(file, asked.epochs, asked.model, asked.data, asked.cuts)
        elif name == "moments":
            repair_cost.resnet50(file)
        else:
            getattr(repair_tables, name)(file, asked.epochs)
    write_json(asked.out, {"tables": {name: file.name for name, file in tables.items()}})


if __name__ == "__main__":
    main()
